-- How blobs are stored.

-- The length of a stored blob's payload before it was shortened.
local function payload_length(value)
  local flags, start = byte(value), 7
  if flags % 2 == 1 then
    local refs, also = unpacked('>I4I4', value, 15)
    start = 23 + refs + also
  end
  return flags >= 4 and unpacked('>I4', value, start) or #value - start + 1
end

-- A blob's value as it is to be stored, and whether clients that remember the old one must forget it.
local function blob_of(old, number, head, payload, short)
  local flags = (head == '' and 0 or 1) + (short and 4 or 0)
  local value = char(flags) .. number .. head .. payload
  if not old or value == old then
    return value, false
  end
  return char(flags + 2) .. sub(value, 2), byte(old) % 4 < 2
end
