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
local freed, fields, unread, damaged = 0, {}, {}, {}
for at, digest in ipairs(digests) do
  local entry = call('HGET', user, 's' .. digest)
  local deadline = entry and end_of(entry)
  if deadline and deadline ~= 0 and deadline <= now then
    local raw = record_in(KEYS[at + 1])
    local readable, m = pcall(alive, raw, now)
    if raw == nil or not readable then
      unread[#unread + 1] = at + 1
    elseif not m then
      freed = freed + 1
      fields[#fields + 1] = 's' .. digest
      call('UNLINK', KEYS[at + 1])
    end
  end
end
local some = call('HSCAN', user, '0', 'COUNT', 1000, 'MATCH', 't*')[2]
for at = 1, #some, 2 do
  local till = end_of(some[at + 1])
  if not till then
    damaged[#damaged + 1] = some[at]
  elseif till <= now then
    fields[#fields + 1] = some[at]
  end
end
many('HDEL', user, fields)
return { freed, unread, damaged }
