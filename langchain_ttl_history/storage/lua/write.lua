-- Changes one session, whole or not at all.
--
-- KEYS: the user, the session.
-- ARGV[1], packed: digest of the key, the time or -1, margin; idle time and maximal age
--   (-1 unbounded); a name of this request; the session's own idle time (-1 as it is, 1 none);
--   whether it is upkeep, whether it must be new; the position, the generation, the guard's
--   generation it expects (-1 any), the blob the guard needs or ''; the generation and the epoch
--   in which the numbers in references were learnt; blobs (name, mark, what belongs to it,
--   references), entries to append (list, references), entries to place (list, position,
--   references), names to drop, lists to trim (list, positions), lists to weigh.
--   References are names, or arrays: where in ARGV runs of numbers stand, the letter and the number
--   after the last, then for each table that they need letter, number and how often.
-- ARGV[2]: the key's ids.
-- ARGV[3...]: runs of numbers, then the payloads of the blobs, of the appended and of the placed entries.
-- Reply: [S, numbers, weights, numbers of the blobs], all packed; [D] behind the fence, [A] absent,
--   [M] moved, [X, names] missing, [R] where the references have to be sent as names.

local session = KEYS[2]
local a = cmsgpack.unpack(ARGV[1])
local digest, now, margin, idle, age, request = a[1], clock(a[2]), a[3], a[4], a[5], a[6]
local own, upkeep, new, at_position, at_generation, guarded, needs = a[7], a[8], a[9], a[10], a[11], a[12], a[13]
local known_generation, known_epoch = a[14], a[15]
local blobs, appends, places, drops, trims, weighed = a[16], a[17], a[18], a[19], a[20], a[21]
local payload = 2 + a[22]

local raw = call('HGET', session, '*')
local m = alive(raw, now)
local living = m

local function weights()
  local found = {}
  local fields = {}
  for at = 1, #weighed do
    fields[at] = 'l' .. weighed[at]
  end
  local values = many('HMGET', session, fields)
  for at = 1, #weighed do
    found[at] = pack('>I4', values[at] and unpacked('>I4', values[at], 5) or 0)
  end
  return table.concat(found)
end

if m then
  -- A client that lost the answer sends the request again: it is not done twice.
  local at = string.find(m.requests, request, 1, true)
  if at and at % 16 == 1 then
    local position = unpacked('>I8', m.requests, at + 8)
    return { 'S', pack('>I8I8I8I8I8', m.generation, position, m.bytes, m.epoch, m.epoch), weights(), '' }
  end
end
local fence = fence_of(digest, now)
if fence > 0 then
  if guarded >= 0 and guarded <= fence then
    return { 'D' }
  end
  if needs ~= '' and not (m and call('HEXISTS', session, 'b' .. needs) == 1) then
    return { 'D' }
  end
end
if not m and upkeep then
  return { 'A' }
end
if (at_generation >= 0 and not (m and m.generation == at_generation))
  or (at_position >= 0 and not (m and m.position == at_position))
  or (new and m) then
  return { 'M' }
end

-- What is there of everything this changes, in one go.
local stored, asked = {}, {}
local function ask(field)
  if stored[field] == nil then
    stored[field] = false
    asked[#asked + 1] = field
  end
end
local fresh = {}
for _, blob in ipairs(blobs) do
  fresh[blob[1]] = true
end
local counted = false
local function ask_for(refs)
  for _, ref in ipairs(refs) do
    if type(ref) == 'table' then
      counted = true
    elseif not fresh[ref] then
      ask('b' .. ref)
    end
  end
end
for _, blob in ipairs(blobs) do
  ask('b' .. blob[1])
  ask_for(blob[4])
end
for _, each in ipairs(appends) do
  ask('l' .. each[1])
  ask_for(each[2])
end
for _, each in ipairs(places) do
  ask('l' .. each[1])
  ask_for(each[3])
end
for _, name in ipairs(drops) do
  ask('b' .. name)
  ask('l' .. name)
end
for _, each in ipairs(trims) do
  ask('l' .. each[1])
end
for _, name in ipairs(weighed) do
  ask('l' .. name)
end
if counted and not (m and m.generation == known_generation) then
  return { 'R' }
end
if m then
  local found = many('HMGET', session, asked)
  for at = 1, #asked do
    stored[asked[at]] = found[at]
  end
end

-- The names of blobs by their numbers.
local tables, tables_changed = {}, {}
local function names_in(key)
  local found = tables[key]
  if not found then
    local packed = living and call('HGET', session, 't' .. key)
    found = packed and cmsgpack.unpack(packed) or {}
    tables[key] = found
  end
  return found
end

-- Whether every reference is stored or part of this.
local missing, absent = {}, {}
local function miss(name)
  if not absent[name] then
    absent[name] = true
    missing[#missing + 1] = name
  end
end
local trusted = m and m.epoch == known_epoch
local function check(refs)
  for _, ref in ipairs(refs) do
    if type(ref) == 'table' then
      if not trusted then
        -- Something was dropped since the numbers were learnt.
        local known = true
        runs(ARGV[ref[1]], function(letter, first, length)
          for id = first, first + length - 1 do
            local name = names_in(letter .. pack('>I4', floor(id / TABLE)))[id % TABLE + 1]
            if name then
              local value = stored['b' .. name]
              if value == nil then
                value = call('HEXISTS', session, 'b' .. name) == 1
              end
              if not value and not fresh[name] then
                miss(name)
              end
            else
              known = false
            end
          end
        end)
        if not known then
          return false
        end
      end
    elseif not fresh[ref] and not stored['b' .. ref] then
      miss(ref)
    end
  end
  return true
end
local understood = true
for _, blob in ipairs(blobs) do
  understood = check(blob[4]) and understood
end
for _, each in ipairs(appends) do
  understood = check(each[2]) and understood
end
for _, each in ipairs(places) do
  understood = check(each[3]) and understood
end
if not understood then
  return { 'R' }
end
if #missing > 0 then
  return { 'X', missing }
end

-- From here on nothing is refused.
local created = not m
if created then
  m = {
    generation = math.max(now, fence + 1), created = now, used = now, deadline = 0, own = 0, position = 0, bytes = 0,
    epoch = 0, requests = '', next = {},
  }
end
local epoch_before = m.epoch
local sets, removes, counts = {}, {}, {}

local function count(letter, first, length, by)
  for number = floor(first / TABLE), floor((first + length - 1) / TABLE) do
    local key = letter .. pack('>I4', number)
    counts[key] = (counts[key] or 0) + by
  end
end
local function release(refs)
  runs(refs, function(letter, first, length)
    count(letter, first, length, -1)
  end)
end

-- Numbers for the new blobs; one that is there already keeps its own.
local numbers, given = {}, {}
for at, blob in ipairs(blobs) do
  local name = blob[1]
  local old = stored['b' .. name]
  local id
  if old then
    id = unpacked('>I4', old, 2)
  else
    local letter = sub(name, 1, 1)
    id = m.next[letter] or 0
    m.next[letter] = id + 1
    local key = letter .. pack('>I4', floor(id / TABLE))
    names_in(key)[id % TABLE + 1] = name
    tables_changed[key] = true
    count(letter, id, 1, 1)
  end
  numbers[name] = id
  given[at] = pack('>I4', id)
end

-- References as they are stored; each run counts for its tables.
local function encoded(refs)
  if #refs == 0 then
    return ''
  end
  local parts, letter, after = {}, nil, 0
  local run_letter, run_first, run_count = nil, 0, 0
  local function flush()
    while run_count > 0 do
      local gap, length = run_first - after, math.min(run_count, 65535)
      count(run_letter, run_first, length, 1)
      if run_letter == letter and gap >= 0 and gap < 255 and length < 256 then
        parts[#parts + 1] = char(gap, length)
      else
        parts[#parts + 1] = '\255' .. run_letter .. pack('>I4I2', run_first, length)
      end
      letter, after = run_letter, run_first + length
      run_first, run_count = run_first + length, run_count - length
    end
  end
  local function add(of, first, length)
    if of == run_letter and first == run_first + run_count then
      run_count = run_count + length
    else
      flush()
      run_letter, run_first, run_count = of, first, length
    end
  end
  for _, ref in ipairs(refs) do
    if type(ref) == 'table' then
      flush()
      parts[#parts + 1] = ARGV[ref[1]]
      letter, after = ref[2], ref[3]
      for at = 4, #ref, 3 do
        local key = ref[at] .. pack('>I4', ref[at + 1])
        counts[key] = (counts[key] or 0) + ref[at + 2]
      end
    else
      add(sub(ref, 1, 1), numbers[ref] or unpacked('>I4', stored['b' .. ref], 2), 1)
    end
  end
  flush()
  return table.concat(parts)
end

for at, blob in ipairs(blobs) do
  local name, mark, refs, belongs = blob[1], blob[2], encoded(blob[4]), {}
  for each, other in ipairs(blob[3]) do
    belongs[each] = pack('>I4', #other) .. other
  end
  belongs = table.concat(belongs)
  payload = payload + 1
  local content = ARGV[payload]
  local old = stored['b' .. name]
  if old then
    local old_refs, _, _, start = parts_of(old)
    release(old_refs)
    m.bytes = m.bytes - (#old - start + 1)
  end
  local value
  if mark == 0 and belongs == '' and refs == '' then
    value = '\0' .. given[at] .. content
  else
    value = '\1' .. given[at] .. pack('>I8I4I4', mark, #refs, #belongs) .. refs .. belongs .. content
  end
  m.bytes = m.bytes + #content
  stored['b' .. name] = value
  sets['b' .. name] = value
end

-- Lists, as they are to become.
local lists = {}
local function list_of(name)
  local list = lists[name]
  if not list then
    local value = stored['l' .. name]
    if value then
      local count, weight, first, after, newest = unpacked('>I4I4I4I4I8', value)
      list = { count = count, weight = weight, first = first, after = after, newest = newest, tail = sub(value, 25) }
    else
      list = { count = 0, weight = 0, first = 0, after = 0, newest = 0, tail = '' }
    end
    lists[name] = list
  end
  list.changed = true
  return list
end
local function weight_of(refs)
  local weight = 1
  runs(refs, function(_, _, length)
    weight = weight + length
  end)
  return weight
end
local function append(name, list, position, refs, content)
  local entry = pack('>I8I4I4', position, #refs, #content) .. refs .. content
  if #list.tail > 0 and #list.tail + #entry > 1024 then
    sets['k' .. pack('>I4', list.after) .. name] = list.tail
    list.after = list.after + 1
    list.tail = ''
  end
  list.tail = list.tail .. entry
  list.count = list.count + 1
  list.weight = list.weight + weight_of(refs)
  list.newest = position
  m.bytes = m.bytes + #content
end
-- All entries of a list, which is left empty.
local function taken(name, list)
  local found = {}
  local function take(position, refs, content)
    found[#found + 1] = { position, refs, content }
    m.bytes = m.bytes - #content
  end
  for number = list.first, list.after - 1 do
    local field = 'k' .. pack('>I4', number) .. name
    local part = sets[field] or call('HGET', session, field)
    if part then
      entries(part, take)
    end
    sets[field] = nil
    removes[#removes + 1] = field
  end
  entries(list.tail, take)
  list.first, list.count, list.weight, list.tail = list.after, 0, 0, ''
  return found
end

for _, each in ipairs(appends) do
  local refs = encoded(each[2])
  payload = payload + 1
  m.position = m.position + 1
  append(each[1], list_of(each[1]), m.position, refs, ARGV[payload])
end

-- Entries to place are sorted in; those of one list at once.
local placed, order = {}, {}
for _, each in ipairs(places) do
  local name, position = each[1], each[2]
  payload = payload + 1
  if not placed[name] then
    placed[name] = {}
    order[#order + 1] = name
  end
  local entry = { position, encoded(each[3]), ARGV[payload] }
  local before = placed[name][position]
  if before then
    release(before[2])
  end
  placed[name][position] = entry
  m.position = math.max(m.position, position)
end
for _, name in ipairs(order) do
  local list = list_of(name)
  local all = {}
  for _, entry in ipairs(taken(name, list)) do
    if placed[name][entry[1]] then
      release(entry[2])
    else
      all[#all + 1] = entry
    end
  end
  for _, entry in pairs(placed[name]) do
    all[#all + 1] = entry
  end
  table.sort(all, function(one, other)
    return one[1] < other[1]
  end)
  for _, entry in ipairs(all) do
    append(name, list, entry[1], entry[2], entry[3])
  end
end

for _, name in ipairs(drops) do
  local value = stored['b' .. name]
  if value then
    local refs, _, _, start = parts_of(value)
    release(refs)
    count(sub(name, 1, 1), unpacked('>I4', value, 2), 1, -1)
    m.bytes = m.bytes - (#value - start + 1)
    m.epoch = epoch_before + 1
    stored['b' .. name] = false
    sets['b' .. name] = nil
    removes[#removes + 1] = 'b' .. name
  end
  if stored['l' .. name] or lists[name] then
    for _, entry in ipairs(taken(name, list_of(name))) do
      release(entry[2])
    end
  end
end

for _, each in ipairs(trims) do
  local name, gone = each[1], {}
  for _, position in ipairs(each[2]) do
    gone[position] = true
  end
  if stored['l' .. name] or lists[name] then
    local list = list_of(name)
    for _, entry in ipairs(taken(name, list)) do
      if gone[entry[1]] then
        release(entry[2])
      else
        append(name, list, entry[1], entry[2], entry[3])
      end
    end
  end
end

for name, list in pairs(lists) do
  if list.count > 0 then
    sets['l' .. name] = pack('>I4I4I4I4I8', list.count, list.weight, list.first, list.after, list.newest) .. list.tail
  else
    sets['l' .. name] = nil
    removes[#removes + 1] = 'l' .. name
  end
end
for key in pairs(tables_changed) do
  sets['t' .. key] = cmsgpack.pack(tables[key])
end

-- When it ends.
if own >= 0 or not upkeep then
  local used = m.used
  if upkeep then
    used = math.min(now, m.used + lag_of(m))
  else
    m.used = now
    used = now
  end
  if own >= 0 then
    m.own = own == 0 and 0 or own
  end
  local earliest, latest = ends(m, used, idle, age)
  if upkeep then
    -- Counted from the last use, which may have been later than is known.
    local _, known = ends(m, m.used, idle, age)
    latest = math.max(earliest, known)
  end
  m.deadline = latest == huge and 0 or latest
end
m.requests = sub(request .. pack('>I8', m.position) .. m.requests, 1, 512)
sets['*'] = record(m)

if created then
  if raw then
    call('DEL', session)
  end
  -- Each creation looks at a few others, so that what is over does not pile up.
  local some = call('HRANDFIELD', user, 8, 'WITHVALUES')
  local over = {}
  for at = 1, #some, 2 do
    local kind = byte(some[at])
    if kind ~= 46 then
      local _, till = unpacked('>I8I8', some[at + 1])
      if till ~= 0 and till <= now then
        over[#over + 1] = some[at]
      end
    end
  end
  -- HDEL is not refused for want of memory, and what follows a write is not refused either, so it
  -- comes after the first HSET below.
  removes.over = over
end

-- A write that only frees begins with what a server without memory still takes.
local frees = upkeep and #blobs == 0 and #appends == 0 and #removes > 0
if frees then
  many('HDEL', session, removes)
end
local fields = {}
for field, value in pairs(sets) do
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end
many('HSET', session, fields)
if not frees then
  many('HDEL', session, removes)
end
local ended = {}
for key, by in pairs(counts) do
  if by ~= 0 and call('HINCRBY', session, 'r' .. key, by) == 0 then
    -- Nothing needs this table any more; the one that is being filled stays.
    if unpacked('>I4', key, 2) ~= floor((m.next[sub(key, 1, 1)] or 0) / TABLE) then
      ended[#ended + 1] = 'r' .. key
      ended[#ended + 1] = 't' .. key
    end
  end
end
many('HDEL', session, ended)
if created or own >= 0 or not upkeep then
  expire(session, m.deadline, now, margin)
end
if removes.over and #removes.over > 0 then
  many('HDEL', user, removes.over)
end
enlist(m, digest, ARGV[2], now, margin)

local heavy = {}
for at, name in ipairs(weighed) do
  local list = lists[name]
  local weight = list and list.weight
  if not weight then
    local value = stored['l' .. name]
    weight = value and unpacked('>I4', value, 5) or 0
  end
  heavy[at] = pack('>I4', weight)
end
return {
  'S', pack('>I8I8I8I8I8', m.generation, m.position, m.bytes, epoch_before, m.epoch), table.concat(heavy),
  table.concat(given),
}
