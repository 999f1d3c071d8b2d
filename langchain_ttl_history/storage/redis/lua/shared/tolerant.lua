-- What can be told of keys and values that may be damaged, or hold what another program wrote. Scripts about many sessions
-- use it, so that one of them stops none of the others, and those that delete.

-- A session's record as it is stored, or false where there is none; nil if the key is of another type.
local function record_in(session)
  local raw = redis.pcall('HGET', session, '*')
  if type(raw) ~= 'table' then
    return raw
  end
  if not string.find(raw.err, 'WRONGTYPE', 1, true) then
    return call('HGET', session, '*') -- It raises the error as it is; here its code would be lost.
  end
  return nil
end

-- When the session or the tombstone ends that an entry of the user's hash is about; nil if the entry is damaged.
local function end_of(entry)
  if #entry < 16 then
    return nil
  end
  local _, ended = unpacked('>I8I8', entry)
  return ended
end
