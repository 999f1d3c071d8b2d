-- Makes the common change: sets blobs and appends entries whose references the client knows by number or sends along.
--
-- KEYS: the user, the session.
-- ARGV[1], packed:
--    1  the time, or -1 for the server's
--    2  margin, see `expire`
--    3  idle time; -1 unbounded
--    4  maximal age; -1 unbounded
--    5  the generation that the session must have; -1 any
--    6  the guard's generation; -1 none
--    7  the blob that the guard needs, or ''
--    8  the generation in which the client learnt the numbers in references; -1 if none depends on them
--    9  the epoch in which it learnt them; -1 likewise
--   10  the newest request that it knew then
--   11  a request that may have begun the next epoch without invalidating those numbers, or ''
--   12  the digest of the key
--   13  the id of this request
--   14  the kinds of the blobs that may be new
--   15  blobs, five values each: name; length of the header, 0 for none; length of the payload; whether that is
--       shortened; places
--   16  entries, six values each: list; length of the references; length of the payload; its length before it was
--       shortened or 0; weight; places
--   Places are 0, or two values for each reference to a blob that this write sets and that may have no number yet: the
--   offset at which its number is put, and the place of the blob in 15.
-- ARGV[2]: the ids of user and session.
-- ARGV[3]: headers and payloads of 15, references and payloads of 16, all in one: clients are slow with many arguments.
-- Reply: one string that begins with a letter.
--   S  stored; then `stored_answer`, the weights, and flags and number of each blob of 15
--   D  refused by the fence
--   M  moved: another generation
--   R  left to change.lua, to which the client turns next

local session, content = KEYS[2], ARGV[3]
local given, margin, idle, age, at_generation, guarded, needs, known_generation, known_epoch, known_by, dropper, digest,
  request, kinds, blobs, appends = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(given)

-- All that is stored of what this changes, read with one command.
local fields, slots, touched = { '*' }, {}, {}
for at = 1, #blobs, 5 do
  fields[#fields + 1] = 'b' .. blobs[at]
end
for at = 1, #appends, 6 do
  local name = appends[at]
  if not slots[name] then
    touched[#touched + 1] = name
    fields[#fields + 1] = 'l' .. name
    slots[name] = #fields
  end
end
local tables_at = #fields
for each = 1, #kinds do
  fields[tables_at + each] = 't' .. char(kinds[each])
end
local stored = call('HMGET', session, unpack(fields))

local record = live_record(stored[1], now, age)
if not record then
  return 'R'
end
local edition, lists = record.edition, {}
for _, name in ipairs(touched) do
  lists[name] = list_from(stored[slots[name]])
end
local function answer(position)
  local parts = { stored_answer(record, position, record.epoch, edition) }
  for at, name in ipairs(touched) do
    parts[1 + at] = pack('>I4', lists[name].weight)
  end
  return table.concat(parts)
end
local position = position_after(record, request)
if position then
  return answer(position)
end
if now < record.till and is_fenced(session, record, record.fence, guarded, needs) then
  return 'D'
end
if at_generation >= 0 and record.generation ~= at_generation then
  return 'M'
end
if known_generation >= 0 then
  local is_valid = record.epoch == known_epoch or (record.epoch == known_epoch + 1 and record.dropper == dropper)
  if record.generation ~= known_generation or not is_valid or not offset_of(record, known_by) then
    return 'R'
  end
end

local values, tails, looked_at = { '*', '' }, {}, {}
for each = 1, #kinds do
  tails[kinds[each]] = stored[tables_at + each]
  looked_at[kinds[each]] = true
end
for at = 1, #blobs, 5 do
  -- The client takes this blob for stored, but it is not, and the table for its number was not read.
  if not stored[(at + 9) / 5] and not looked_at[kind_of(blobs[at])] then
    return 'R'
  end
end
local numbers, changed = {}, {}
for at = 1, #blobs, 5 do
  local old = stored[(at + 9) / 5]
  if old then
    numbers[#numbers + 1] = sub(old, 2, 6)
    record.bytes = record.bytes - payload_length(old)
  else
    numbers[#numbers + 1] = numbered(record, blobs[at], tails, changed, values)
  end
end
local function filled(refs, places)
  for at = 1, #places, 2 do
    refs = sub(refs, 1, places[at]) .. numbers[places[at + 1]] .. sub(refs, places[at] + 6)
  end
  return refs
end
local first, told = 1, {}
for at = 1, #blobs, 5 do
  local head, size, short, places, number = blobs[at + 1], blobs[at + 2], blobs[at + 3], blobs[at + 4], numbers[(at + 4) / 5]
  local header, old = sub(content, first, first + head - 1), stored[(at + 9) / 5]
  if places ~= 0 then
    header = filled(header, places)
  end
  local value, anew = blob_of(old, number, header, sub(content, first + head, first + head + size - 1), short)
  if anew then
    record.edition = edition + 1
  end
  if value ~= old then
    values[#values + 1] = 'b' .. blobs[at]
    values[#values + 1] = value
  end
  told[#told + 1] = sub(value, 1, 6)
  record.bytes = record.bytes + payload_length(value)
  first = first + head + size
end
for at = 1, #appends, 6 do
  local name, length, size, full, places = appends[at], appends[at + 1], appends[at + 2], appends[at + 3], appends[at + 5]
  local refs, payload = sub(content, first, first + length - 1), sub(content, first + length, first + length + size - 1)
  if places ~= 0 then
    refs = filled(refs, places)
  end
  record.position = next_position(record, now)
  record.bytes = record.bytes + (full > 0 and full or size)
  grow(lists[name], name, record.position, appends[at + 4], refs, payload, full, values)
  first = first + length + size
end
for _, name in ipairs(touched) do
  values[#values + 1] = 'l' .. name
  values[#values + 1] = list_as(lists[name])
end
store_tails(tails, changed, values)

local moved = use(record, time_of_use(record, now, margin), idle, age)
remember(record, request)
values[2] = packed_record(record)
if moved then
  -- First, since it fails if the user's key is damaged, and nothing must be stored then.
  enlist(record, digest, ARGV[2], now, margin)
end
call('HSET', session, unpack(values))
if moved then
  expire(session, record.deadline, now, margin)
end
return answer(record.position) .. table.concat(told)
