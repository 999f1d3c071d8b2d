-- How references, blobs, lists and tables are laid out.

-- Fails if a list claims to have more parts than are possible, so that a damaged one does not block the server.
local function check_parts(first, after)
  if after - first > 1000000 then
    error('a list is damaged')
  end
end

-- The field of the table with a number of a kind.
local function table_of(record, kind, number)
  number = floor(number / TABLE)
  if number == floor((record.next[kind] - 1) / TABLE) then
    return 't' .. char(kind)
  end
  return 't' .. char(kind) .. pack('>I4', number)
end

-- Calls `each` with kind, first number and count of every run of references; see `runs_of`.
local function each_run(refs, each)
  local at, kind, after = 1, 0, 0
  while at <= #refs do
    local gap, count = byte(refs, at, at + 1)
    local first
    if gap == 255 then
      kind = count
      first, count = unpacked('>I4I2', refs, at + 2)
      at = at + 8
    else
      first = after + gap - 100
      at = at + 2
    end
    after = first + count
    each(kind, first, count)
  end
end

-- How many references these are.
local function count_of(refs)
  local found, at = 0, 1
  while at <= #refs do
    local gap, count = byte(refs, at, at + 1)
    if gap == 255 then
      count = unpacked('>I2', refs, at + 6)
      at = at + 8
    else
      at = at + 2
    end
    found = found + count
  end
  return found
end

-- References to these numbers as they are stored; each number is a kind and 4 bytes. Consecutive ones become one run: two
-- bytes, the gap since the last run plus 100 and the count; or eight, 255, the kind, the first number and the count.
local function runs_of(numbers)
  local parts, kind, after = {}, nil, 0
  local run_kind, run_first, run_count = nil, 0, 0
  local function flush()
    while run_count > 0 do
      local gap, length = run_first - after, math.min(run_count, 65535)
      if run_kind == kind and gap >= -100 and gap < 155 and length < 256 then
        parts[#parts + 1] = char(gap + 100, length)
      else
        parts[#parts + 1] = '\255' .. char(run_kind) .. pack('>I4I2', run_first, length)
      end
      kind, after = run_kind, run_first + length
      run_first, run_count = run_first + length, run_count - length
    end
  end
  for _, number in ipairs(numbers) do
    local of, first = byte(number), unpacked('>I4', number, 2)
    if of == run_kind and first == run_first + run_count then
      run_count = run_count + 1
    else
      flush()
      run_kind, run_first, run_count = of, first, 1
    end
  end
  flush()
  return table.concat(parts)
end

-- The parts of a stored blob: references, what belongs to it, mark, where its payload begins.
local function parts_of(value)
  if byte(value) % 2 == 0 then
    return '', '', 0, 7
  end
  local mark, refs, also = unpacked('>I8I4I4', value, 7)
  return sub(value, 23, 22 + refs), sub(value, 23 + refs, 22 + refs + also), mark, 23 + refs + also
end

-- Calls `each` with position, references, payload and its length before it was shortened of every entry.
local function each_entry(raw, each)
  local at = 1
  while at <= #raw do
    local position, refs, payload, full = unpacked('>I6I4I4I2', raw, at)
    each(position, sub(raw, at + 16, at + 15 + refs), sub(raw, at + 16 + refs, at + 15 + refs + payload), full)
    at = at + 16 + refs + payload
  end
end
