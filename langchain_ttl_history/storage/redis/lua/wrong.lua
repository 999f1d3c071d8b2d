-- Tells which keys hold something else than a hash, after another script failed.
--
-- KEYS: those that the script was given.
-- Reply: their places among KEYS, counted from 1. One that cannot be looked at, since the command is not permitted for
--   example, is not among them.

local wrong = {}
for at = 1, #KEYS do
  local reply = redis.pcall('HLEN', KEYS[at])
  if type(reply) == 'table' and string.find(reply.err, 'WRONGTYPE', 1, true) then
    wrong[#wrong + 1] = at
  end
end
return wrong
