-- How lists are read, which are stored in parts. Each function gives entries as they are stored, and whether any may have
-- references.

-- All entries of a list.
local function every_entry(session, name, list)
  local count, weight, first, after = unpacked('>I4I4I4I4', list)
  local fields = {}
  check_parts(first, after)
  for number = first, after - 1 do
    fields[#fields + 1] = 'k' .. pack('>I4', number) .. name
  end
  local parts = call_many('HMGET', session, fields)
  for at = 1, #fields do
    parts[at] = parts[at] or ''
  end
  parts[#fields + 1] = sub(list, 25)
  return table.concat(parts), weight > count
end

-- The entries of a list after a mark.
local function entries_after(session, name, list, mark)
  local count, weight, first, after, newest = unpacked('>I4I4I4I4I8', list)
  if newest <= mark then
    return '', false
  end
  local raw, oldest = sub(list, 25), huge
  if #raw > 0 then
    oldest = unpacked('>I6', raw)
  end
  local parts = { raw }
  check_parts(first, after)
  -- From the newest part back to the mark, so that a read costs what is new.
  while oldest > mark and after > first do
    after = after - 1
    local part = call('HGET', session, 'k' .. pack('>I4', after) .. name)
    if part then
      table.insert(parts, 1, part)
      oldest = unpacked('>I6', part)
    end
  end
  raw = table.concat(parts)
  local at = 1
  while at <= #raw do
    local position, refs, payload = unpacked('>I6I4I4', raw, at)
    if position > mark then
      break
    end
    at = at + 16 + refs + payload
  end
  return sub(raw, at), weight > count
end
