-- What a client remembers of a session and is not sent again.

-- The runs of numbers that a client remembers, by kind; none if they are of another generation, edition or lineage.
-- A client that remembers a blob also remembers all it refers to.
local function remembered_of(m, generation, edition, known_by, kept)
  local remembers = {}
  if m.generation == generation and m.edition == edition and place_of(m, known_by) then
    for at = 1, #kept, 3 do
      local kind = kept[at]
      remembers[kind] = remembers[kind] or {}
      table.insert(remembers[kind], { kept[at + 1], kept[at + 1] + kept[at + 2] })
    end
  end
  return remembers
end

-- Calls `each` with kind, first number and count of every part of a run that is not remembered.
local NONE = {}
local function unknown(remembers, kind, first, count, each)
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
local function told(m, field)
  if #field > 2 then
    return field
  end
  return field .. pack('>I4', floor((m.next[byte(field, 2)] - 1) / TABLE))
end

-- All fields and values but those of the blobs that are remembered.
local function whole(session, m, remembers)
  if not next(remembers) then
    return call('HGETALL', session)
  end
  local all, asked = {}, {}
  for _, field in ipairs(call('HKEYS', session)) do
    if byte(field) ~= 98 then -- not b, a blob
      asked[#asked + 1] = field
    end
  end
  local values, wanted = many('HMGET', session, asked), {}
  for at, field in ipairs(asked) do
    if byte(field) == 116 then -- t, a table
      local listed, start = { cmsgpack.unpack(values[at]) }, unpacked('>I4', told(m, field), 3) * TABLE
      unknown(remembers, byte(field, 2), start, #listed, function(_, first, count)
        for number = first, first + count - 1 do
          wanted[#wanted + 1] = 'b' .. listed[number - start + 1]
        end
      end)
    end
    all[2 * at - 1], all[2 * at] = field, values[at]
  end
  values = many('HMGET', session, wanted)
  for at, field in ipairs(wanted) do
    -- A dropped blob may still have a name in a table. One that was stored again has two, and is sent twice.
    if values[at] then
      all[#all + 1] = field
      all[#all + 1] = values[at]
    end
  end
  return all
end
