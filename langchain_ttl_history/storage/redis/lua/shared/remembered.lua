-- What a client remembers of a session and is not sent again.

-- The runs of numbers that a client remembers, by kind; none if they are of another generation, edition or lineage.
-- A client that remembers a blob also remembers all it refers to.
local function remembered_of(record, generation, edition, known_by, runs)
  local remembers = {}
  if record.generation == generation and record.edition == edition and offset_of(record, known_by) then
    for at = 1, #runs, 3 do
      local kind = runs[at]
      remembers[kind] = remembers[kind] or {}
      table.insert(remembers[kind], { runs[at + 1], runs[at + 1] + runs[at + 2] })
    end
  end
  return remembers
end

-- Calls `each` with kind, first number and count of every part of a run that is not remembered.
local NONE = {}
local function each_unknown(remembers, kind, first, count, each)
  local after = first + count
  for _, run in ipairs(remembers[kind] or NONE) do
    if run[2] > first and run[1] < after then
      if run[1] > first then
        each(kind, first, run[1] - first)
      end
      first = run[2]
    end
  end
  if first < after then
    each(kind, first, after - first)
  end
end

-- The field of a table with its number added, which the field of a kind's newest table lacks.
local function numbered_field(record, field)
  if #field > 2 then
    return field
  end
  return field .. pack('>I4', floor((record.next[byte(field, 2)] - 1) / TABLE))
end

-- All fields and values but those of the blobs that are remembered.
local function whole_session(session, record, remembers)
  if not next(remembers) then
    return call('HGETALL', session)
  end
  local all, asked = {}, {}
  for _, field in ipairs(call('HKEYS', session)) do
    if byte(field) ~= 98 then -- not b, a blob
      asked[#asked + 1] = field
    end
  end
  local values, wanted = call_many('HMGET', session, asked), {}
  for at, field in ipairs(asked) do
    if byte(field) == 116 then -- t, a table
      local listed, start = { cmsgpack.unpack(values[at]) }, unpacked('>I4', numbered_field(record, field), 3) * TABLE
      each_unknown(remembers, byte(field, 2), start, #listed, function(_, first, count)
        for number = first, first + count - 1 do
          wanted[#wanted + 1] = 'b' .. listed[number - start + 1]
        end
      end)
    end
    all[2 * at - 1], all[2 * at] = field, values[at]
  end
  values = call_many('HMGET', session, wanted)
  for at, field in ipairs(wanted) do
    -- A dropped blob may still have a name in a table. One that was stored again has two, and is sent twice.
    if values[at] then
      all[#all + 1] = field
      all[#all + 1] = values[at]
    end
  end
  return all
end
