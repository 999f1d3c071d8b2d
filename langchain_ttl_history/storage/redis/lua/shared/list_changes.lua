-- How lists are changed elsewhere than at their end.

-- Five functions that change the lists of a session: `list_of` gives a list by its name, `append`, `taken`, `place` and
-- `trim` change it. `stored` has the values read, by field; `lists` gets the changed lists, `sets` and `removes` their
-- older parts. The payloads are added to and subtracted from `record.bytes`.
local function list_changes(session, record, stored, lists, sets, removes)
  local function list_of(name)
    local list = lists[name]
    if not list then
      list = list_from(stored['l' .. name])
      lists[name] = list
    end
    return list
  end
  local function append(name, list, position, refs, content, full)
    local aside = {}
    grow(list, name, position, 1 + count_of(refs), refs, content, full, aside)
    if aside[1] then
      sets[aside[1]] = aside[2]
    end
    record.bytes = record.bytes + (full > 0 and full or #content)
  end
  -- The part of a list with a number; those of `after` and later are its newest entries.
  local function part_of(name, number)
    local field = 'k' .. pack('>I4', number) .. name
    return sets[field] or call('HGET', session, field) or '', field
  end
  -- All entries of a list, which is left empty.
  local function taken(name, list)
    local found = {}
    local function take(position, refs, content, full)
      found[#found + 1] = { position, refs, content, full }
      record.bytes = record.bytes - (full > 0 and full or #content)
    end
    check_parts(list.first, list.after)
    for number = list.first, list.after - 1 do
      local part, field = part_of(name, number)
      each_entry(part, take)
      sets[field] = nil
      removes[#removes + 1] = field
    end
    each_entry(list.tail, take)
    list.first, list.count, list.weight, list.tail = list.after, 0, 0, ''
    return found
  end
  -- Merges entries into a list, in the place of those at the same positions; `placed` has them by position.
  local function place(name, list, placed)
    local all = {}
    for _, entry in ipairs(taken(name, list)) do
      if not placed[entry[1]] then
        all[#all + 1] = entry
      end
    end
    for _, entry in pairs(placed) do
      all[#all + 1] = entry
    end
    table.sort(all, function(one, other)
      return one[1] < other[1]
    end)
    for _, entry in ipairs(all) do
      append(name, list, unpack(entry))
    end
  end
  -- Removes entries of a list. What is newer than all of them is not looked at.
  local function trim(name, list, positions)
    local gone, last = {}, 0
    for _, position in ipairs(positions) do
      gone[position] = true
      last = math.max(last, position)
    end
    local reached = false
    local function left_of(part)
      local kept, at = {}, 1
      while at <= #part do
        local position, refs, size, full = unpacked('>I6I4I4I2', part, at)
        local after = at + 16 + refs + size
        reached = position >= last
        if gone[position] then
          list.count = list.count - 1
          list.weight = list.weight - 1 - count_of(sub(part, at + 16, at + 15 + refs))
          record.bytes = record.bytes - (full > 0 and full or size)
        else
          kept[#kept + 1] = sub(part, at, after - 1)
        end
        at = after
      end
      return table.concat(kept)
    end
    check_parts(list.first, list.after)
    for number = list.first, list.after - 1 do
      if reached then
        return
      end
      local part, field = part_of(name, number)
      local left = left_of(part)
      if left == '' then
        sets[field] = nil
        removes[#removes + 1] = field
        if number == list.first then
          list.first = number + 1
        end
      elseif #left < #part then
        sets[field] = left
      end
    end
    if not reached then
      list.tail = left_of(list.tail)
    end
  end

  return list_of, append, taken, place, trim
end
