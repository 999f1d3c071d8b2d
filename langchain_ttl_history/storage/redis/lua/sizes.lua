-- Sums the bytes that sessions of a user hold.
--
-- KEYS: the user, the sessions.
-- Reply: the bytes of all that exist, expired ones included, as 8 bytes; then the places among KEYS, counted from 1, of
--   those whose record cannot be read.

local function bytes_in(raw)
  return cmsgpack.unpack(raw)[1]
end

local total, unread = 0, { '' }
for at = 2, #KEYS do
  local raw = record_in(KEYS[at])
  if raw ~= false then
    local readable, bytes = pcall(bytes_in, raw)
    if readable and type(bytes) == 'number' and bytes >= 0 then
      total = total + bytes
    else
      unread[#unread + 1] = at
    end
  end
end
unread[1] = pack('>I8', total)
return unread
