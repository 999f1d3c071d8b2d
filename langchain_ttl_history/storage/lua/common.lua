-- What the scripts share; put in front of each of them.
--
-- Every script works on the keys of one user, all in one slot: KEYS[1] is what is known of the
-- user, a hash with
--   s<digest>  a session: last use, deadline, bytes, user id and session id
--   t<digest>  a tombstone: fence, its own deadline, the request that made it, whether there was one
--   .          how many sessions have no deadline, and the latest deadline of all others
-- and every other key is one session, a hash with
--   *                    times, position, sizes, the newest requests, and the next number by letter
--   b<name>              a blob: its number, its header, its payload
--   l<list>              a list: its header and its newest entries
--   k<number><list>      older entries of a list
--   t<letter><number>    a table: the names of 16 blobs whose name begins with this letter
--   r<letter><number>    how many blobs and references still need that table
-- A reference is stored as the number of the blob it names, and consecutive ones as one run.
-- Times are microseconds since the epoch, durations microseconds; 0 is a deadline that never comes.

local call, floor, huge = redis.call, math.floor, math.huge
local pack, unpacked = struct.pack, struct.unpack
local byte, char, sub = string.byte, string.char, string.sub
local user = KEYS[1]

-- A call with more arguments than this would not fit Lua's stack.
local MOST = 4000
local TABLE = 16

local function clock(given)
  if given >= 0 then
    return given
  end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Sends a command about many fields, some at a time, and gives all answers as one.
local function many(command, key, fields)
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

-- Times that a test's clock gives are not the server's, so a key lives on by `margin` milliseconds.
local function expire(key, deadline, now, margin)
  if deadline == 0 then
    call('PERSIST', key)
  else
    local left = math.max(1, math.ceil((deadline - now) / 1000)) + margin
    call('PEXPIRE', key, string.format('%.0f', left))
  end
end

local function fence_of(digest, now)
  local stone = call('HGET', user, 't' .. digest)
  if stone then
    local fence, till = unpacked('>I8I8', stone)
    if now < till then
      return fence
    end
  end
  return 0
end

-- A session's record, or nil where there is none that is alive.
local function alive(raw, now)
  if not raw then
    return nil
  end
  local a = cmsgpack.unpack(raw)
  local deadline = a[5]
  if deadline ~= 0 and deadline <= now then
    return nil
  end
  return {
    bytes = a[1], generation = a[2], created = a[3], used = a[4], deadline = deadline, own = a[6], position = a[7],
    epoch = a[8], requests = a[9], next = a[10],
  }
end

local function record(m)
  return cmsgpack.pack({
    m.bytes, m.generation, m.created, m.used, m.deadline, m.own, m.position, m.epoch, m.requests, m.next,
  })
end

-- When a session ends that was used at this time: at the earliest, and at the latest. What lies
-- between spares most reads a write.
local function ends(m, used, idle, age)
  if m.own == 1 then
    idle = -1
  elseif m.own > 1 then
    idle = m.own
  end
  local first, last = huge, huge
  if idle >= 0 then
    first = used + idle
    last = first + floor(idle / 10)
  end
  if age >= 0 then
    first, last = math.min(first, m.created + age), math.min(last, m.created + age)
  end
  return first, last
end

-- By how much a session's last use may be later than it says: a tenth of its idle time, or a second
-- where it has none.
local function lag_of(m)
  return m.deadline == 0 and 1000000 or floor((m.deadline - m.used) / 11)
end

local function bound(pinned, latest, now, margin)
  expire(user, pinned > 0 and 0 or latest, now, margin)
end

-- Says in the user's hash how a session stands.
local function enlist(m, digest, ids, now, margin)
  local found = call('HMGET', user, 's' .. digest, '.')
  local pinned, latest = 0, 0
  if found[2] then
    pinned, latest = unpacked('>I4I8', found[2])
  end
  local _, before = unpacked('>I8I8', found[1] or pack('>I8I8', 0, 1))
  if before == 0 then
    pinned = pinned - 1
  end
  if m.deadline == 0 then
    pinned = pinned + 1
  else
    latest = math.max(latest, m.deadline)
  end
  local entry = pack('>I8I8I8', m.used, m.deadline, m.bytes) .. ids
  call('HSET', user, 's' .. digest, entry, '.', pack('>I4I8', pinned, latest))
  bound(pinned, latest, now, margin)
end

-- Calls `each` with letter, first number and count of every run of references.
local function runs(refs, each)
  local at, letter, after = 1, '', 0
  while at <= #refs do
    local gap, count = byte(refs, at, at + 1)
    local first
    if gap == 255 then
      letter = sub(refs, at + 1, at + 1)
      first, count = unpacked('>I4I2', refs, at + 2)
      at = at + 8
    else
      first = after + gap
      at = at + 2
    end
    after = first + count
    each(letter, first, count)
  end
end

-- The parts of a stored blob: references, what belongs to it, mark, where its payload begins.
local function parts_of(value)
  if byte(value, 1) == 0 then
    return '', '', 0, 6
  end
  local mark, refs, also = unpacked('>I8I4I4', value, 6)
  return sub(value, 22, 21 + refs), sub(value, 22 + refs, 21 + refs + also), mark, 22 + refs + also
end

-- Calls `each` with position, references and payload of every entry.
local function entries(raw, each)
  local at = 1
  while at <= #raw do
    local position, refs, payload = unpacked('>I8I4I4', raw, at)
    each(position, sub(raw, at + 16, at + 15 + refs), sub(raw, at + 16 + refs, at + 15 + refs + payload))
    at = at + 16 + refs + payload
  end
end
