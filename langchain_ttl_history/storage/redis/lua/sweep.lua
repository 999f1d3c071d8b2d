-- Frees expired sessions of a user, and some of the user's expired tombstones.
--
-- KEYS: the user, the sessions.
-- ARGV[1], packed:
--    1  the time, or -1 for the server's
--    2  the digests of the keys, in the order of KEYS
-- Reply: how many sessions were freed.

local a = cmsgpack.unpack(ARGV[1])
local now, digests = clock(a[1]), a[2]
local freed, fields = 0, {}
for at, digest in ipairs(digests) do
  local entry = call('HGET', user, 's' .. digest)
  if entry then
    local _, deadline = unpacked('>I8I8', entry)
    if deadline ~= 0 and deadline <= now and not alive(call('HGET', KEYS[at + 1], '*'), now) then
      freed = freed + 1
      fields[#fields + 1] = 's' .. digest
      call('DEL', KEYS[at + 1])
    end
  end
end
local some = call('HSCAN', user, '0', 'COUNT', 1000, 'MATCH', 't*')[2]
for at = 1, #some, 2 do
  local _, till = unpacked('>I8I8', some[at + 1])
  if till <= now then
    fields[#fields + 1] = some[at]
  end
end
many('HDEL', user, fields)
return freed
