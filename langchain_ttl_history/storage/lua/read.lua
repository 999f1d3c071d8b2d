-- Reads parts of one session.
--
-- KEYS: the user, the session.
-- ARGV[1], packed: digest of the key, the time or -1, margin; idle time (-1 unbounded, -2 for an
--   onlooker), maximal age (-1 unbounded); whether an outline is wanted; names, letters to
--   follow, list to read after a mark or '', blob with the mark, then a list and its most for each
--   list over which an outline is the answer.
-- ARGV[2]: the key's ids.
-- Reply: [now, fence] as packed numbers; where there is a session also its numbers, packed; its
--   blobs and its lists, each name followed by its value; tables of names that the references
--   need, each key followed by its names; for an outline instead of these three every field of
--   the session, each followed by its value. Strings are sent as two: their packed lengths, and
--   all of them joined, since clients take long over many small answers.

local session = KEYS[2]
local a = cmsgpack.unpack(ARGV[1])
local digest, now, margin, idle, age = a[1], clock(a[2]), a[3], a[4], a[5]
local outline, names, follow, marked_list, marked_blob, over = a[6], a[7], a[8], a[9], a[10], a[11]

local fence = fence_of(digest, now)
local first_part = pack('>I8I8', now, fence)
local m = alive(call('HGET', session, '*'), now)
if not m then
  return { first_part }
end

if idle ~= -2 then
  local earliest, latest = ends(m, now, idle, age)
  local deadline = m.deadline == 0 and huge or m.deadline
  if deadline < earliest or deadline > latest or now - m.used > lag_of(m) then
    m.used = now
    m.deadline = latest == huge and 0 or latest
    -- First what a server without memory still takes: the rest of a script is then not refused.
    expire(session, m.deadline, now, margin)
    call('HSET', session, '*', record(m))
    enlist(m, digest, ARGV[2], now, margin)
  end
end

local numbers = pack('>I8I8I8I8I8I8I8', m.generation, m.position, m.bytes, m.created, m.used, m.deadline, m.epoch)

local function joined(strings)
  local lengths = {}
  for at = 1, #strings do
    lengths[at] = #strings[at]
  end
  return cmsgpack.pack(lengths), table.concat(strings)
end
local function as_one(strings)
  local lengths, all = joined(strings)
  return pack('>I4', #lengths) .. lengths .. all
end

for at = 1, #over, 2 do
  local value = not outline and call('HGET', session, 'l' .. over[at])
  if value and unpacked('>I4', value, 5) > over[at + 1] then
    outline = true
  end
end
if outline then
  local all = call('HGETALL', session)
  for at = 1, #all, 2 do
    if byte(all[at]) == 116 then
      all[at + 1] = as_one(cmsgpack.unpack(all[at + 1]))
    end
  end
  return { first_part, numbers, joined(all) }
end

local blobs, lists, tables = {}, {}, {}
local known_tables, needed_tables = {}, {}
local seen, next_names, next_refs = {}, {}, {}
local follows = {}
for at = 1, #follow do
  follows[sub(follow, at, at)] = true
end

local function names_in(letter, number)
  local key = letter .. pack('>I4', number)
  local found = known_tables[key]
  if not found then
    local raw = call('HGET', session, 't' .. key)
    found = raw and cmsgpack.unpack(raw) or {}
    known_tables[key] = found
  end
  return found, key
end

local function need(letter, number)
  local found, key = names_in(letter, number)
  if not needed_tables[key] then
    needed_tables[key] = true
    tables[#tables + 1] = key
    tables[#tables + 1] = as_one(found)
  end
end

-- The numbers that blobs in the answer have, and those that references have.
local told, owed = {}, {}

-- Queues what these references name, or says how the numbers are to be understood.
local function refer(letter, first, count)
  local followed = follows[letter]
  for number = floor(first / TABLE), floor((first + count - 1) / TABLE) do
    if not followed then
      need(letter, number)
    else
      local found = names_in(letter, number)
      local start = number * TABLE
      for id = math.max(first, start), math.min(first + count, start + TABLE) - 1 do
        local name = found[id - start + 1]
        owed[#owed + 1] = letter
        owed[#owed + 1] = id
        if name and not seen[name] then
          seen[name] = true
          next_refs[#next_refs + 1] = 'b' .. name
        end
      end
    end
  end
end

local function give_blob(name, value)
  local letter = sub(name, 1, 1)
  local numbers = told[letter]
  if not numbers then
    numbers = {}
    told[letter] = numbers
  end
  numbers[unpacked('>I4', value, 2)] = true
  blobs[#blobs + 1] = name
  blobs[#blobs + 1] = value
  if byte(value, 1) ~= 0 then
    local refs, also = parts_of(value)
    runs(refs, refer)
    local at = 1
    while at <= #also do
      local size = unpacked('>I4', also, at)
      local other = sub(also, at + 4, at + 3 + size)
      if follows[sub(other, 1, 1)] and not seen[other] then
        next_names[#next_names + 1] = other
      end
      at = at + 4 + size
    end
  end
end

local function give_list(name, raw, has_refs)
  lists[#lists + 1] = name
  lists[#lists + 1] = raw
  if has_refs then
    entries(raw, function(_, refs)
      runs(refs, refer)
    end)
  end
end

local function older(name, first, after)
  local fields = {}
  for number = first, after - 1 do
    fields[#fields + 1] = 'k' .. pack('>I4', number) .. name
  end
  local found = many('HMGET', session, fields)
  for at = 1, #fields do
    found[at] = found[at] or ''
  end
  return table.concat(found)
end

local given_list = {}
if marked_list ~= '' then
  local value = call('HGET', session, 'b' .. marked_blob)
  local mark = 0
  if value then
    local _, _, at = parts_of(value)
    mark = at
  end
  local list = call('HGET', session, 'l' .. marked_list)
  local kept, has_refs = '', false
  if list then
    local count, weight, first, after, newest = unpacked('>I4I4I4I4I8', list)
    has_refs = weight > count
    if newest > mark then
      local raw, oldest = sub(list, 25), huge
      if #raw > 0 then
        oldest = unpacked('>I8', raw)
      end
      local parts = { raw }
      -- Back to the mark, so that the cost is that of what is new.
      while oldest > mark and after > first do
        after = after - 1
        local part = call('HGET', session, 'k' .. pack('>I4', after) .. marked_list)
        if part then
          table.insert(parts, 1, part)
          oldest = unpacked('>I8', part)
        end
      end
      raw = table.concat(parts)
      local at = 1
      while at <= #raw do
        local position, refs, payload = unpacked('>I8I4I4', raw, at)
        if position > mark then
          break
        end
        at = at + 16 + refs + payload
      end
      kept = sub(raw, at)
    end
  end
  given_list[marked_list] = true
  give_list(marked_list, kept, has_refs)
end

next_names = {}
for at = 1, #names do
  next_names[at] = names[at]
end
while #next_names > 0 or #next_refs > 0 do
  local asked, referred, fields = next_names, next_refs, {}
  next_names, next_refs = {}, {}
  local wanted = {}
  for at = 1, #asked do
    local name = asked[at]
    if not seen[name] then
      seen[name] = true
      wanted[#wanted + 1] = name
      fields[#fields + 1] = 'b' .. name
      fields[#fields + 1] = 'l' .. name
    end
  end
  local direct = #fields
  for at = 1, #referred do
    fields[#fields + 1] = referred[at]
  end
  local found = many('HMGET', session, fields)
  for at = 1, #wanted do
    local name, value, list = wanted[at], found[2 * at - 1], found[2 * at]
    if value then
      give_blob(name, value)
    elseif list and not given_list[name] then
      local count, weight, first, after = unpacked('>I4I4I4I4', list)
      give_list(name, older(name, first, after) .. sub(list, 25), weight > count)
    end
  end
  for at = 1, #referred do
    local value = found[direct + at]
    local name = sub(referred[at], 2)
    if value then
      give_blob(name, value)
    else
      -- Dropped since; a list of that name is read.
      seen[name] = nil
      next_names[#next_names + 1] = name
    end
  end
end
-- What was dropped has its name still, and what was stored again has another number by now.
for at = 1, #owed, 2 do
  local letter, id = owed[at], owed[at + 1]
  if not (told[letter] and told[letter][id]) then
    need(letter, floor(id / TABLE))
  end
end
local blob_sizes, all_blobs = joined(blobs)
local list_sizes, all_lists = joined(lists)
return { first_part, numbers, blob_sizes, all_blobs, list_sizes, all_lists, joined(tables) }
