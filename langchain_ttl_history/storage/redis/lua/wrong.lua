-- Tells which keys hold something else than a hash, after another script failed.
--
-- KEYS: those that the script was given.
-- Reply: their places among KEYS, counted from 1.

local wrong = {}
for at = 1, #KEYS do
  if type(redis.pcall('HLEN', KEYS[at])) == 'table' then
    wrong[#wrong + 1] = at
  end
end
return wrong
