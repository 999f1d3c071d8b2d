-- How lists are stored, and grow at their end.

local function list_from(value)
  if not value then
    return { count = 0, weight = 0, first = 0, after = 0, newest = 0, tail = '' }
  end
  local count, weight, first, after, newest = unpacked('>I4I4I4I4I8', value)
  return { count = count, weight = weight, first = first, after = after, newest = newest, tail = sub(value, 25) }
end

local function list_as(list)
  return pack('>I4I4I4I4I8', list.count, list.weight, list.first, list.after, list.newest) .. list.tail
end

-- Appends an entry to a list. `full` is the length of its payload before it was shortened, or 0. A part that is full is
-- put aside into `values`, so that appends do not touch it again.
local function grow(list, name, position, weight, refs, payload, full, values)
  local entry = pack('>I6I4I4I2', position, #refs, #payload, full) .. refs .. payload
  if #list.tail > 0 and #list.tail + #entry > 1024 then
    values[#values + 1] = 'k' .. pack('>I4', list.after) .. name
    values[#values + 1] = list.tail
    list.after = list.after + 1
    list.tail = entry
  else
    list.tail = list.tail .. entry
  end
  list.count = list.count + 1
  list.weight = list.weight + weight
  list.newest = position
end
