-- How blobs get numbers, and lists grow; put in front of the scripts that write.

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
local function numbered(m, name, tails, changed, values)
  local kind = kind_of(name)
  local number = m.next[kind] or 0
  local names = tails[kind] or ''
  if number % TABLE == 0 and names ~= '' then
    values[#values + 1] = 't' .. char(kind) .. pack('>I4', number / TABLE - 1)
    values[#values + 1] = names
    names = ''
  end
  tails[kind] = names .. cmsgpack.pack(name)
  changed[kind] = true
  m.next[kind] = number + 1
  return pack('>I1I4', kind, number)
end

local function store_tails(tails, changed, values)
  for kind in pairs(changed) do
    values[#values + 1] = 't' .. char(kind)
    values[#values + 1] = tails[kind]
  end
end

-- The length of a stored blob's payload before it was shortened.
local function payload_of(value)
  local sort, start = byte(value), 7
  if sort % 2 == 1 then
    local refs, also = unpacked('>I4I4', value, 15)
    start = 23 + refs + also
  end
  return sort >= 4 and unpacked('>I4', value, start) or #value - start + 1
end

-- A blob's value as it is to be stored, and whether clients that remember the old one must forget it.
local function blob_of(old, number, head, payload, short)
  local sort = (head == '' and 0 or 1) + (short and 4 or 0)
  local value = char(sort) .. number .. head .. payload
  if not old or value == old then
    return value, false
  end
  return char(sort + 2) .. sub(value, 2), byte(old) % 4 < 2
end

local function list_from(value)
  if not value then
    return { count = 0, weight = 0, first = 0, after = 0, newest = 0, tail = '' }
  end
  local count, weight, first, after, newest = unpacked('>I4I4I4I4I8', value)
  return { count = count, weight = weight, first = first, after = after, newest = newest, tail = sub(value, 25) }
end

local function list_as(list)
  return pack('>I4I4I4I4I8', list.count, list.weight, list.first, list.after, list.newest) .. list.tail
end

-- Appends an entry to a list. `full` is the length of its payload before it was shortened, or 0. A part that is full is
-- put aside into `values`, so that appends do not touch it again.
local function grow(list, name, position, weight, refs, payload, full, values)
  local entry = pack('>I6I4I4I2', position, #refs, #payload, full) .. refs .. payload
  if #list.tail > 0 and #list.tail + #entry > 1024 then
    values[#values + 1] = 'k' .. pack('>I4', list.after) .. name
    values[#values + 1] = list.tail
    list.after = list.after + 1
    list.tail = entry
  else
    list.tail = list.tail .. entry
  end
  list.count = list.count + 1
  list.weight = list.weight + weight
  list.newest = position
end

-- The position after a request that was already done, or nil if it is new: a client that lost the answer sends its
-- request again, and that must not take effect twice.
local function done(m, request)
  local at = place_of(m, request)
  if at then
    return unpacked('>I8', m.requests, at + 8)
  end
end

-- Whether a write continues what was deleted, while a tombstone with this fence stands; `m` is nil without a session.
local function is_fenced(session, m, fence, guarded, needs)
  if guarded >= 0 and guarded <= fence then
    return true
  end
  return needs ~= '' and not (m and call('HEXISTS', session, 'b' .. needs) == 1)
end

-- How the answer to a write that is stored begins: its numbers, with the epoch and the edition before it, and the newest
-- 8 requests; more do not come between two answers to a few threads. The weights of lists come next.
local function stored_answer(m, position, epoch, edition)
  local requests = sub(m.requests, 1, 128)
  return 'S' .. pack(
    '>I8I8I8I8I8I8I8I4', m.generation, position, m.bytes, epoch, m.epoch, edition, m.edition, #requests
  ) .. requests
end

-- Remembers the newest 64 requests, 16 bytes each. A request that is sent again is recognised if no more than 63 others
-- came in between, and even a busy process has fewer under way.
local function remember(m, request)
  m.requests = sub(request .. pack('>I8', m.position) .. m.requests, 1, 1024)
end
