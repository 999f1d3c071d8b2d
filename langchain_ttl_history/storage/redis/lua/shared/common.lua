-- What all scripts share; put in front of each of them, and behind it the other files of this folder that it needs.
--
-- Every script works on the keys of one user, all in one slot: KEYS[1] is what is known of the
-- user, a hash with
--   s<digest>  a session: last use, deadline, user id and session id
--   t<digest>  a tombstone: fence, its own deadline, the request that made it, whether there was one
--   t          the tombstone of all that is the user's
--   .          how many sessions have no deadline, and the latest deadline of all others
-- and every other key is one session, a hash with
--   *                    times, position, sizes, fence, the newest requests, the next number by kind
--   b<name>              a blob: its flags, its number, its header, its payload
--   l<list>              a list: its header and its newest entries
--   k<number><list>      older entries of a list
--   t<kind>              a table: the names of the newest blobs of a kind, up to 16, each packed
--   t<kind><number>      a table that is full
-- A reference is stored as the kind and the number of the blob it names, and consecutive references as one run.
-- The kind of a blob is the first byte of its name, plus 128 if the name is longer than 32 bytes; kind 0 is
-- for all names whose first byte is not ASCII. Names of different lengths mostly serve different uses, and
-- with a kind for each use more references are consecutive, which makes fewer runs.
-- The flags of a blob are a sum of: 1 if it has a header; 2 once it was set again with other content; 4 if its
-- payload is shortened, and then begins with its original length. A blob that was never set again is what any
-- client remembers of it. An edition of the session ends when a blob is dropped, or set again for the first
-- time.
-- Times are microseconds since the epoch, durations microseconds; 0 is a deadline that never comes.

local call, floor, huge = redis.call, math.floor, math.huge
local pack, unpacked = struct.pack, struct.unpack
local byte, char, sub = string.byte, string.char, string.sub
local user = KEYS[1]
-- How many names a table holds.
local TABLE = 16

-- A call with more arguments than this would not fit Lua's stack.
local MOST = 4000

-- Sends a command about many fields, some at a time, and gives all answers as one.
local function call_many(command, key, fields)
  if #fields <= MOST then
    if #fields == 0 then
      return {}
    end
    return call(command, key, unpack(fields))
  end
  local answers = {}
  for first = 1, #fields, MOST do
    local part = call(command, key, unpack(fields, first, math.min(first + MOST - 1, #fields)))
    if type(part) == 'table' then
      for at = 1, #part do
        answers[first + at - 1] = part[at]
      end
    end
  end
  return answers
end

local function clock(given)
  if given >= 0 then
    return given
  end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Times that a test's clock gives are not the server's, so a key lives on by `margin` milliseconds.
-- `send` is `call` if left out.
local function expire(key, deadline, now, margin, send)
  send = send or call
  if deadline == 0 then
    return send('PERSIST', key)
  end
  local left = math.max(1, math.ceil((deadline - now) / 1000)) + margin
  return send('PEXPIRE', key, string.format('%.0f', left))
end

-- A session's record, or nil where there is none that is alive, or it is older than `age`, which may be left out.
--   generation, created, used, deadline
--   bytes, position        what the session holds, and the newest position given out
--   epoch, edition         count the changes that invalidate numbers, and blobs, that clients remember
--   own                    the session's own idle time; 0 if it has none, 1 if it is pinned
--   next                   the next number, by kind
--   fence, till            the newest deleted generation, and until when it counts
--   requests               the newest requests; see `remember`
--   dropped, dropper       how many blobs were dropped since unused names were removed; the last request that dropped any
local function live_record(raw, now, age)
  if not raw then
    return nil
  end
  local at = cmsgpack.unpack(raw)
  local created, deadline = at[3], at[5]
  if (deadline ~= 0 and deadline <= now) or (age and age >= 0 and created + age <= now) then
    return nil
  end
  return {
    bytes = at[1], generation = at[2], created = created, used = at[4], deadline = deadline, own = at[6], position = at[7],
    epoch = at[8], requests = at[9], next = at[10], fence = at[11], till = at[12], dropped = at[13],
    dropper = at[14], edition = at[15],
  }
end

local function packed_record(record)
  return cmsgpack.pack({
    record.bytes, record.generation, record.created, record.used, record.deadline, record.own, record.position,
    record.epoch, record.requests, record.next, record.fence, record.till, record.dropped, record.dropper, record.edition,
  })
end

-- The newest fence of the standing tombstones of a session and its user, and until when it counts.
local function fence_of(digest, now)
  local highest, last = 0, 0
  for _, stone in ipairs({ call('HGET', user, 't' .. digest), call('HGET', user, 't') }) do
    if stone then
      local fence, till = unpacked('>I8I8', stone)
      if now < till then
        highest, last = math.max(highest, fence), math.max(last, till)
      end
    end
  end
  return highest, last
end

-- The offset of a request among a session's newest ones, 16 bytes each; nil if it is not among them. A server that took
-- over from another may lack requests, and may have given the numbers of their blobs to others.
local function offset_of(record, request)
  local at = string.find(record.requests, request, 1, true)
  return at and at % 16 == 1 and at or nil
end

local function expire_user(pinned, latest, now, margin)
  expire(user, pinned > 0 and 0 or latest, now, margin)
end

-- Records a session's last use and deadline in the user's hash.
local function enlist(record, digest, ids, now, margin)
  local found = call('HMGET', user, 's' .. digest, '.')
  local pinned, latest = 0, 0
  if found[2] then
    pinned, latest = unpacked('>I4I8', found[2])
  end
  local _, before = unpacked('>I8I8', found[1] or pack('>I8I8', 0, 1))
  if before == 0 then
    pinned = pinned - 1
  end
  if record.deadline == 0 then
    pinned = pinned + 1
  else
    latest = math.max(latest, record.deadline)
  end
  call('HSET', user, 's' .. digest, pack('>I8I8', record.used, record.deadline) .. ids, '.', pack('>I4I8', pinned, latest))
  expire_user(pinned, latest, now, margin)
end
