-- Reads parts of one session.
-- First what is named is read, and the use is recorded. Then references are followed in rounds, each with one command for
-- the names that belong to their numbers and one for the blobs and lists. Older parts of a list take one more.
--
-- KEYS: the user, the session.
-- ARGV[1], packed:
--    1  the digest of the key
--    2  the time, or -1 for the server's
--    3  margin, see `expire`
--    4  idle time; -1 unbounded, -2 if this is not a use
--    5  maximal age; -1 unbounded
--    6  whether an outline is wanted
--    7  names of blobs and lists to read
--    8  first letters of the names to follow
--    9  a list to read after a mark, or ''
--   10  the blob that has the mark
--   11  lists and their largest weights, in turn: if one weighs more, the answer is an outline
--   12  the generation of what the client remembers
--   13  its edition
--   14  the newest request that the client knew then
--   15  the blobs it remembers: kind, first number and count of each run, in the order of numbers
-- ARGV[2]: the ids of user and session.
-- Reply, without a session: the time and the fence.
-- Reply, with a session:
--    1  `head`: times, counts and the fence; whether this is an outline; how many of the strings are of tables, named
--       blobs and lists; the newest requests
--    2  the lengths of the strings, packed
--    3  and on: the strings, several joined in one. In an outline they are field and value of all there is. Otherwise:
--       field and value of each table of names that the references need; name and value of each blob that was named;
--       name and value of each list; only the value of each blob that was followed, since its number gives its name.
--       Blobs that the client remembers are never sent.

local session = KEYS[2]
local digest, given, margin, idle, age, outline, names, follow, marked_list, marked_blob, outline_over, known_generation,
  known_edition, known_by, known_runs = unpack(cmsgpack.unpack(ARGV[1]))
local now = clock(given)

-- Whether a server says that it accepts no writes for the moment, since a snapshot failed or replicas are missing. It
-- still serves reads, and the deadline stays where it is.
local function refuses_writes(refusal)
  return string.find(refusal.err, 'MISCONF', 1, true) or string.find(refusal.err, 'NOREPLICAS', 1, true)
end

-- What is asked for by name, all at once.
local fields = { '*', 'l' .. marked_list, 'b' .. marked_blob }
for at = 1, #outline_over, 2 do
  fields[#fields + 1] = 'l' .. outline_over[at]
end
local named_at = #fields
for at = 1, #names do
  fields[#fields + 1] = 'b' .. names[at]
  fields[#fields + 1] = 'l' .. names[at]
end
local stored = call_many('HMGET', session, fields)
local record = live_record(stored[1], now)
if not record then
  return { pack('>I8I8', now, (fence_of(digest, now))) }
end

local used, deadline = record.used, record.deadline
if idle ~= -2 and use(record, time_of_use(record, now, margin), idle, age) then
  -- First a command that a server out of memory still accepts: it then does not refuse the rest of the script.
  local reply = expire(session, record.deadline, now, margin, redis.pcall)
  local is_moved = type(reply) ~= 'table'
  if is_moved then
    -- If the user's key is damaged this fails, at each use and not only at the first.
    enlist(record, digest, ARGV[2], now, margin)
    call('HSET', session, '*', packed_record(record))
  elseif not refuses_writes(reply) then
    return reply -- Raised in Lua it would lose its code, by which drivers know what to do.
  end
  if record.deadline ~= 0 and record.deadline <= now then
    -- It is older than this use allows; whoever used it before allowed more.
    return { pack('>I8I8', now, (fence_of(digest, now))) }
  end
  if not is_moved then
    record.used, record.deadline = used, deadline
  end
end
local head = pack(
  '>I8I8I8I8I8I8I8I8I8I8', now, now < record.till and record.fence or 0, record.generation, record.position,
  record.bytes, record.created, record.used, record.deadline, record.epoch, record.edition
)

-- Joins strings to some of about 4 kB: clients are slow with many small ones, and a server with one that is huge.
local function answer(strings, ...)
  local reply, lengths, first, size = { head .. pack('>I4I4I4I4', ...) .. record.requests, '' }, {}, 1, 0
  for at = 1, #strings do
    lengths[at] = #strings[at]
    size = size + #strings[at]
    if size > 4000 or at == #strings then
      reply[#reply + 1] = table.concat(strings, '', first, at)
      first, size = at + 1, 0
    end
  end
  reply[2] = cmsgpack.pack(lengths)
  return reply
end

for at = 1, #outline_over, 2 do
  local value = stored[3 + (at + 1) / 2]
  if value and unpacked('>I4', value, 5) > outline_over[at + 1] then
    outline = true
  end
end
local remembers = remembered_of(record, known_generation, known_edition, known_by, known_runs)
if outline then
  local all = whole_session(session, record, remembers)
  for at = 1, #all, 2 do
    if byte(all[at]) == 116 then -- t, a table
      all[at] = numbered_field(record, all[at])
    end
  end
  return answer(all, 1, 0, 0, 0)
end

-- The kinds of blobs to follow. Of kind 0 it depends on the name.
local follows, by_name = {}, {}
for _, letter in ipairs(follow) do
  local first = byte(letter)
  if first == 0 or first > 127 then
    follows[0] = true
    by_name[letter] = true
  else
    follows[first], follows[first + 128] = true, true
  end
end
local function is_followed(name)
  local first = byte(name) or 0
  if first > 0 and first < 128 then
    return follows[first]
  end
  for letter in pairs(by_name) do
    if sub(name, 1, #letter) == letter then
      return true
    end
  end
end

local tables, blobs, lists, referred = {}, {}, {}, {}
local seen, given_list = {}, {}
-- What the answer refers to that is not looked up yet.
local next_names, next_runs = {}, {}
local function wants(kind, first, count)
  next_runs[#next_runs + 1] = { kind, first, count }
end
local function refer(kind, first, count)
  each_unknown(remembers, kind, first, count, wants)
end

local function give_refs(value)
  if byte(value) % 2 == 1 then
    local refs, also = parts_of(value)
    each_run(refs, refer)
    local at = 1
    while at <= #also do
      local size = unpacked('>I4', also, at)
      local other = sub(also, at + 4, at + 3 + size)
      if is_followed(other) then
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
    each_entry(raw, function(_, refs)
      each_run(refs, refer)
    end)
  end
end

local function give_named(name, value, list)
  if value then
    blobs[#blobs + 1] = name
    blobs[#blobs + 1] = value
    give_refs(value)
  elseif list and not given_list[name] then
    give_list(name, every_entry(session, name, list))
  end
end

if marked_list ~= '' then
  local mark = stored[3] and select(3, parts_of(stored[3])) or 0
  given_list[marked_list] = true
  if stored[2] then
    give_list(marked_list, entries_after(session, marked_list, stored[2], mark))
  else
    give_list(marked_list, '', false)
  end
end
for at = 1, #names do
  local name = names[at]
  if not seen[name] then
    seen[name] = true
    give_named(name, stored[named_at + 2 * at - 1], stored[named_at + 2 * at])
  end
end

-- The names in tables, by the field of the table; `look_up` reads those of all runs with one command.
local names_in = {}
local function look_up(wanted)
  local keys = {}
  for _, run in ipairs(wanted) do
    local kind, first, count = run[1], run[2], run[3]
    for number = floor(first / TABLE) * TABLE, first + count - 1, TABLE do
      local key = table_of(record, kind, number)
      if names_in[key] == nil then
        names_in[key] = {}
        keys[#keys + 1] = key
      end
    end
  end
  local values = call_many('HMGET', session, keys)
  for at, key in ipairs(keys) do
    tables[#tables + 1] = numbered_field(record, key)
    tables[#tables + 1] = values[at]
    names_in[key] = follows[byte(key, 2)] and { cmsgpack.unpack(values[at]) }
  end
end

while #next_names > 0 or #next_runs > 0 do
  local asked_names, asked_runs = next_names, next_runs
  next_names, next_runs = {}, {}
  look_up(asked_runs)
  -- Two fields for each name, a blob's and a list's; then one for each number.
  local asked, named, number_of = {}, {}, {}
  for _, name in ipairs(asked_names) do
    if not seen[name] then
      seen[name] = true
      named[#named + 1] = name
      asked[#asked + 1] = 'b' .. name
      asked[#asked + 1] = 'l' .. name
    end
  end
  local numbered_at = #asked
  for _, run in ipairs(asked_runs) do
    local kind, first, count = run[1], run[2], run[3]
    if follows[kind] then
      local in_table, found_names
      for number = first, first + count - 1 do
        if floor(number / TABLE) ~= in_table then
          in_table = floor(number / TABLE)
          found_names = names_in[table_of(record, kind, number)]
        end
        local name = found_names[number % TABLE + 1]
        if name and not seen[name] and (kind ~= 0 or is_followed(name)) then
          seen[name] = true
          asked[#asked + 1] = 'b' .. name
          number_of[#asked] = number
        end
      end
    end
  end
  local values = call_many('HMGET', session, asked)
  for at, name in ipairs(named) do
    give_named(name, values[2 * at - 1], values[2 * at])
  end
  for at = numbered_at + 1, #asked do
    local value = values[at]
    if value and unpacked('>I4', value, 3) == number_of[at] then
      referred[#referred + 1] = value
      give_refs(value)
    elseif value then
      -- The blob was dropped and stored again, with another number.
      give_named(sub(asked[at], 2), value)
    else
      -- The blob was dropped since; there may be a list of that name.
      local name = sub(asked[at], 2)
      seen[name] = nil
      next_names[#next_names + 1] = name
    end
  end
end

local counts = { 0, #tables, #blobs, #lists }
for _, part in ipairs({ blobs, lists, referred }) do
  for at = 1, #part do
    tables[#tables + 1] = part[at]
  end
end
return answer(tables, unpack(counts))
