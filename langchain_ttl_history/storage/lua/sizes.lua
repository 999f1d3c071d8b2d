-- How many bytes sessions of a user hold.
--
-- KEYS: the user, the sessions.
-- Reply: the bytes of all that are there, those that are over included, packed.

local total = 0
for at = 2, #KEYS do
  local raw = call('HGET', KEYS[at], '*')
  if raw then
    total = total + cmsgpack.unpack(raw)[1]
  end
end
return pack('>I8', total)
