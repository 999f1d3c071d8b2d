-- Makes any change to one session, whole or not at all; write.lua makes the common ones.
-- First what the change may concern is read, but for older parts of lists; then it is refused or applied to what was
-- read; then that is stored.
--
-- KEYS: the user, the session.
-- ARGV[1], packed:
--    1  the digest of the key
--    2  the time, or -1 for the server's
--    3  margin, see `expire`
--    4  idle time; -1 unbounded
--    5  maximal age; -1 unbounded
--    6  the id of this request
--    7  the session's own idle time from now on; -1 leaves it as it is, 1 pins the session
--    8  whether this is upkeep
--    9  whether the session must be new
--   10  the position it must have; -1 any
--   11  the generation it must have; -1 any
--   12  the guard's generation; -1 none
--   13  the blob that the guard needs, or ''
--   14  blobs to set: name, mark, what belongs to it, references, whether the payload is shortened
--   15  entries to append: list, references, the length of the payload before it was shortened or 0
--   16  entries to place: list, position, references, that length
--   17  names of blobs and lists to drop
--   18  lists to trim: list, positions
--   19  lists whose weights are to be told
-- ARGV[2]: the ids of user and session.
-- ARGV[3] and on: the payloads of 14, 15 and 16, in this order.
-- Reply: one string that begins with a letter.
--   S  stored; then `stored_answer`, the weights, and flags and number of each blob of 14
--   D  refused by the fence
--   A  absent: upkeep of a session that is not there
--   M  moved: another position or generation, or not new
--   X  missing references follow, each name preceded by its length

local session = KEYS[2]
local digest, given, margin, idle, age, request, own, upkeep, new, at_position, at_generation, guarded, needs, blobs,
  appends, places, drops, trims, weighed = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(given)
local payload = 2

local raw = call('HGET', session, '*')
local record = live_record(raw, now, age)

-- What is stored of everything this may change, read with one command.
local stored, asked = {}, {}
local function ask(field)
  if stored[field] == nil then
    stored[field] = false
    asked[#asked + 1] = field
  end
end
local is_set = {}
for _, blob in ipairs(blobs) do
  is_set[blob[1]] = true
end
-- Calls `each` with the references of every blob and entry.
local function each_refs(each)
  for _, blob in ipairs(blobs) do
    each(blob[4])
  end
  for _, entry in ipairs(appends) do
    each(entry[2])
  end
  for _, entry in ipairs(places) do
    each(entry[3])
  end
end
for _, blob in ipairs(blobs) do
  ask('b' .. blob[1])
  ask('t' .. char(kind_of(blob[1])))
end
each_refs(function(refs)
  for _, ref in ipairs(refs) do
    if not is_set[ref] then
      ask('b' .. ref)
    end
  end
end)
for _, name in ipairs(drops) do
  ask('b' .. name)
  ask('l' .. name)
end
for _, name in ipairs(weighed) do
  ask('l' .. name)
end
if record then
  local found = call_many('HMGET', session, asked)
  for at = 1, #asked do
    stored[asked[at]] = found[at]
  end
end

local lists = {}
local function weights()
  local found = {}
  for at, name in ipairs(weighed) do
    local value = stored['l' .. name]
    local weight = lists[name] and lists[name].weight or value and unpacked('>I4', value, 5)
    found[at] = pack('>I4', weight or 0)
  end
  return table.concat(found)
end

local fence, till
if record then
  fence, till = record.fence, record.till
  local position = position_after(record, request)
  if position then
    return stored_answer(record, position, record.epoch, record.edition) .. weights()
  end
else
  fence, till = fence_of(digest, now)
end
if now < till and is_fenced(session, record, fence, guarded, needs) then
  return 'D'
end
if not record and upkeep then
  return 'A'
end
if (at_generation >= 0 and not (record and record.generation == at_generation))
  or (at_position >= 0 and not (record and record.position == at_position))
  or (new and record) then
  return 'M'
end

-- Refuses references that are neither stored nor part of this change.
local missing, absent = {}, {}
each_refs(function(refs)
  for _, ref in ipairs(refs) do
    if not is_set[ref] and not stored['b' .. ref] and not absent[ref] then
      absent[ref] = true
      missing[#missing + 1] = pack('>I4', #ref) .. ref
    end
  end
end)
if #missing > 0 then
  return 'X' .. table.concat(missing)
end

-- From here on nothing is refused.
local created = not record
if created then
  record = {
    generation = math.max(now, fence + 1), created = now, used = now, deadline = 0, own = 0, position = 0, bytes = 0,
    epoch = 0, requests = '', next = {}, fence = fence, till = till, dropped = 0,
    dropper = '', edition = 0,
  }
end
local epoch_before, edition_before = record.epoch, record.edition
local sets, removes, tails, changed = {}, {}, {}, {}
-- Fields and values that are set as well, and that nothing below reads.
local values = {}

-- Numbers for the new blobs; one that is there already keeps its own.
local numbers, told = {}, {}
for _, blob in ipairs(blobs) do
  local name = blob[1]
  local old, kind = stored['b' .. name], kind_of(name)
  if old then
    numbers[name] = sub(old, 2, 6)
  else
    tails[kind] = tails[kind] or stored['t' .. char(kind)]
    numbers[name] = numbered(record, name, tails, changed, values)
  end
end

-- References as they are stored.
local function encoded(refs)
  local found = {}
  for at, ref in ipairs(refs) do
    found[at] = numbers[ref] or sub(stored['b' .. ref], 2, 6)
  end
  return runs_of(found)
end

for at, blob in ipairs(blobs) do
  local name, mark, refs, belongs = blob[1], blob[2], encoded(blob[4]), {}
  for each, other in ipairs(blob[3]) do
    belongs[each] = pack('>I4', #other) .. other
  end
  belongs = table.concat(belongs)
  payload = payload + 1
  local content, old, head = ARGV[payload], stored['b' .. name], ''
  if mark ~= 0 or belongs ~= '' or refs ~= '' then
    head = pack('>I8I4I4', mark, #refs, #belongs) .. refs .. belongs
  end
  local value, anew = blob_of(old, numbers[name], head, content, blob[5])
  if anew then
    record.edition = edition_before + 1
  end
  told[at] = sub(value, 1, 6)
  record.bytes = record.bytes + payload_length(value) - (old and payload_length(old) or 0)
  stored['b' .. name] = value
  sets['b' .. name] = value
end

local list_of, append, taken, place, trim = list_changes(session, record, stored, lists, sets, removes)
for _, each in ipairs(appends) do
  payload = payload + 1
  record.position = next_position(record, now)
  append(each[1], list_of(each[1]), record.position, encoded(each[2]), ARGV[payload], each[3])
end

-- Entries to place, all of one list at once.
local placed, order = {}, {}
for _, each in ipairs(places) do
  local name, position = each[1], each[2]
  payload = payload + 1
  if not placed[name] then
    placed[name] = {}
    order[#order + 1] = name
  end
  placed[name][position] = { position, encoded(each[3]), ARGV[payload], each[4] }
  record.position = math.max(record.position, position)
end
for _, name in ipairs(order) do
  place(name, list_of(name), placed[name])
end

for _, name in ipairs(drops) do
  local value = stored['b' .. name]
  if value then
    record.bytes = record.bytes - payload_length(value)
    record.epoch, record.dropper, record.edition = epoch_before + 1, request, edition_before + 1
    record.dropped = record.dropped + 1
    stored['b' .. name] = false
    sets['b' .. name] = nil
    removes[#removes + 1] = 'b' .. name
  end
  if stored['l' .. name] or lists[name] then
    taken(name, list_of(name))
  end
end

for _, each in ipairs(trims) do
  local name = each[1]
  if stored['l' .. name] or lists[name] then
    trim(name, list_of(name), each[2])
  end
end

for name, list in pairs(lists) do
  if list.count > 0 then
    sets['l' .. name] = list_as(list)
  else
    sets['l' .. name] = nil
    removes[#removes + 1] = 'l' .. name
  end
end
store_tails(tails, changed, values)

if own >= 0 or not upkeep then
  renew(record, own, upkeep, time_of_use(record, now, margin), idle, age)
end
-- Unused names are removed once many blobs were dropped.
local swept = record.dropped > 32 and 3 * record.dropped > call('HLEN', session)
if swept then
  record.dropped = 0
end
remember(record, request)
sets['*'] = packed_record(record)

local expired = {}
if created then
  if raw then
    call('UNLINK', session)
  end
  expired = some_expired(digest, now)
end

-- A server out of memory decides by a script's first write whether it accepts the script. A change that only frees
-- therefore begins with a command that it still accepts, any other with one that it refuses.
local frees = upkeep and #blobs == 0 and #appends == 0 and #removes > 0
if frees then
  call_many('HDEL', session, removes)
end
local lasts = created or own >= 0 or not upkeep
if lasts then
  -- Before anything is stored, since it fails if the user's key is damaged.
  enlist(record, digest, ARGV[2], now, margin)
  call_many('HDEL', user, expired)
end
for field, value in pairs(sets) do
  values[#values + 1] = field
  values[#values + 1] = value
end
call_many('HSET', session, values)
if not frees then
  call_many('HDEL', session, removes)
end
if swept then
  -- Everything is stored by now, so what is damaged must not make this an error.
  pcall(sweep_tables, session, record)
end
if lasts then
  expire(session, record.deadline, now, margin)
end
return stored_answer(record, record.position, epoch_before, edition_before) .. weights() .. table.concat(told)
