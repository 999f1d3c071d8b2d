-- Frees expired sessions of a user, and some of the user's expired tombstones.
--
-- KEYS: the user, the sessions.
-- ARGV[1], packed:
--    1  the time, or -1 for the server's
--    2  the digests of the keys, in the order of KEYS
-- Reply: how many sessions were freed; the places among KEYS, counted from 1, of those whose record cannot be read; the
--   fields of tombstones that cannot.

local a = cmsgpack.unpack(ARGV[1])
local now, digests = clock(a[1]), a[2]
local freed, unread, damaged = 0, {}, {}
-- Fields of the user's hash that are of what is freed.
local fields = {}

-- Sessions, of which the user's hash tells the deadline, and only the session's own record whether that still holds.
for at, digest in ipairs(digests) do
  local entry = call('HGET', user, 's' .. digest)
  local deadline = entry and end_of(entry)
  if deadline and deadline ~= 0 and deadline <= now then
    local raw = record_in(KEYS[at + 1])
    local readable, record = pcall(live_record, raw, now)
    if raw == nil or not readable then
      unread[#unread + 1] = at + 1
    elseif not record then
      freed = freed + 1
      fields[#fields + 1] = 's' .. digest
      call('UNLINK', KEYS[at + 1])
    end
  end
end

-- Tombstones, which come as fields and values in turn.
local found = call('HSCAN', user, '0', 'COUNT', 1000, 'MATCH', 't*')[2]
for at = 1, #found, 2 do
  local field, till = found[at], end_of(found[at + 1])
  if not till then
    damaged[#damaged + 1] = field
  elseif till <= now then
    fields[#fields + 1] = field
  end
end

call_many('HDEL', user, fields)
return { freed, unread, damaged }
