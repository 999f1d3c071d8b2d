-- Sums the bytes that sessions of a user hold.
--
-- KEYS: the user, the sessions.
-- Reply: the bytes of all that exist, expired ones included, as 8 bytes.

local total = 0
for at = 2, #KEYS do
  local raw = call('HGET', KEYS[at], '*')
  if raw then
    total = total + cmsgpack.unpack(raw)[1]
  end
end
return pack('>I8', total)
