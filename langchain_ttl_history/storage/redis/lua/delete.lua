-- Deletes sessions of a user, leaving tombstones.
--
-- KEYS: the user, the sessions.
-- ARGV[1], packed:
--    1  the time, or -1 for the server's
--    2  margin, see `expire`
--    3  how long tombstones stand
--    4  the id of this request
--    5  whether these must be all of the user's sessions
--    6  the digests of the keys, in the order of KEYS
-- Reply: how many live sessions there were; one whose record is damaged, or whose key is of another type, counts as live.
--   Or, if 5 is set and the user has others: the digests of all, and nothing was deleted.

local a = cmsgpack.unpack(ARGV[1])
local now, margin, standing, request, whole, digests = clock(a[1]), a[2], a[3], a[4], a[5], a[6]

if whole then
  local named = {}
  for _, digest in ipairs(digests) do
    named[digest] = true
  end
  local listed, others = {}, false
  for _, field in ipairs(call('HKEYS', user)) do
    if byte(field) == 115 and not string.find(field, '%X', 2) then -- s and a digest, a session
      listed[#listed + 1] = sub(field, 2)
      others = others or not named[sub(field, 2)]
    end
  end
  if others then
    return listed
  end
end

-- Whether a session is alive, and its generation: nil if its record is damaged, or the key that is its own is of another
-- type. Deleting is then all that can be done.
local function state_of(raw)
  if raw == nil then
    return true, nil
  end
  local readable, record = pcall(live_record, raw, now)
  if readable and not record then
    return false, 0
  end
  -- From 2^52 on it is no time, and before long the next number would be the same.
  local generation = readable and record.generation
  if type(generation) == 'number' and generation > 0 and generation < 2 ^ 52 then
    return true, generation
  end
  return true, nil
end

local total = call('HGET', user, '.')
local countable, unpinned = not total or #total >= 12, 0
local there, fields, gone, highest = 0, {}, {}, now
for at, digest in ipairs(digests) do
  local is_alive, generation = state_of(record_in(KEYS[at + 1]))
  local entry = call('HGET', user, 's' .. digest)
  local ended = entry and end_of(entry)
  if not generation then
    -- It was the time when the session was made, even if a clock was set back since, or the number after a fence.
    local readable, before = pcall(fence_of, digest, now)
    generation = math.max(readable and before + 1 or 0, ended and unpacked('>I8', entry) or 0)
  end
  local fence, existed = math.max(now, generation), is_alive and 1 or 0
  local stone = call('HGET', user, 't' .. digest)
  if stone and #stone >= 25 then
    local before, _, by, was = unpacked('>I8I8c8I1', stone)
    fence = math.max(fence, before)
    if by == request then
      existed = was
    end
  end
  if entry then
    countable = countable and ended ~= nil
    if ended == 0 then
      unpinned = unpinned + 1
    end
    gone[#gone + 1] = 's' .. digest
  end
  there, highest = there + existed, math.max(highest, fence)
  fields[#fields + 1] = 't' .. digest
  fields[#fields + 1] = pack('>I8I8', fence, now + standing) .. request .. char(existed)
end
if whole then
  -- Turns may still run of sessions that have expired and are no longer listed. A clock that was set back, or a session
  -- made in the microsecond of a deletion, must not lower what was refused before.
  local stone = call('HGET', user, 't')
  if stone and end_of(stone) then
    highest = math.max(highest, (unpacked('>I8I8', stone)))
  end
  fields[#fields + 1] = 't'
  fields[#fields + 1] = pack('>I8I8', highest, now + standing)
end
local pinned, latest = 0, 0
if not countable then
  -- How many sessions have no deadline is damaged, or whether one of these had. What stays is counted anew.
  local leaves, all = {}, call('HGETALL', user)
  for _, field in ipairs(gone) do
    leaves[field] = true
  end
  for at = 1, #all, 2 do
    local ended = all[at] ~= '.' and not leaves[all[at]] and end_of(all[at + 1]) or nil
    if ended == 0 then
      pinned = pinned + 1
    end
    latest = math.max(latest, ended or 0)
  end
elseif total then
  pinned, latest = unpacked('>I4I8', total)
  pinned = pinned - unpinned
end
latest = math.max(latest, now + standing)
fields[#fields + 1] = '.'
fields[#fields + 1] = pack('>I4I8', pinned, latest)
-- First a command that a server out of memory still accepts: it then does not refuse the rest of the script. There is
-- no field 's', and perhaps no session.
call('HDEL', user, 's')
for at = 2, #KEYS do
  call('UNLINK', KEYS[at])
end
call_many('HSET', user, fields)
call_many('HDEL', user, gone)
expire_user(pinned, latest, now, margin)
return there
