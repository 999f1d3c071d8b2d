-- How blobs get numbers.

local function kind_of(name)
  local first = byte(name) or 0
  if first > 127 then
    return 0
  end
  return #name > 32 and first > 0 and first + 128 or first
end

-- A number for a new blob, as it is stored. Its name goes into the newest table of its kind, which
-- `tails` has by kind and `changed` then names; a table that is full goes to `values`, a field and a
-- value for HSET.
local function numbered(record, name, tails, changed, values)
  local kind = kind_of(name)
  local number = record.next[kind] or 0
  local names = tails[kind] or ''
  if number % TABLE == 0 and names ~= '' then
    values[#values + 1] = 't' .. char(kind) .. pack('>I4', number / TABLE - 1)
    values[#values + 1] = names
    names = ''
  end
  tails[kind] = names .. cmsgpack.pack(name)
  changed[kind] = true
  record.next[kind] = number + 1
  return pack('>I1I4', kind, number)
end

local function store_tails(tails, changed, values)
  for kind in pairs(changed) do
    values[#values + 1] = 't' .. char(kind)
    values[#values + 1] = tails[kind]
  end
end
