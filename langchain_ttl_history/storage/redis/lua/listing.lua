-- Lists a user's sessions, a page at a time.
--
-- KEYS: the user.
-- ARGV[1], packed:
--    1  the time, or -1 for the server's
--    2  where the page begins, '0' for the first
--    3  whether expired sessions are listed as well
-- Reply: where the next page begins, '0' after the last; the time; then digest and entry of each session, and of each
--   whose entry is damaged.

local a = cmsgpack.unpack(ARGV[1])
local now, cursor, every = clock(a[1]), a[2], a[3]
local reply = { '0', pack('>I8', now) }
local found
if cursor == '0' and call('HLEN', user) <= 10000 then
  found = call('HGETALL', user)
else
  local page = call('HSCAN', user, cursor, 'COUNT', 5000)
  reply[1], found = page[1], page[2]
end
for at = 1, #found, 2 do
  if byte(found[at]) == 115 then -- s, a session
    local deadline = end_of(found[at + 1])
    if every or not deadline or deadline == 0 or deadline > now then
      reply[#reply + 1] = sub(found[at], 2)
      reply[#reply + 1] = found[at + 1]
    end
  end
end
return reply
