-- Removes unused names from the tables of names.
--
-- A name is used by its blob and by each reference to it, even if the blob was dropped. Uses are not counted:
-- the whole session is scanned once enough was dropped.
local function sweep_tables(session, record)
  local needed, all = {}, call('HGETALL', session)
  local function need(kind, first, count)
    local numbers = needed[kind]
    if not numbers then
      numbers = {}
      needed[kind] = numbers
    end
    for number = first, first + count - 1 do
      numbers[number] = true
    end
  end
  for at = 1, #all, 2 do
    local what, value = byte(all[at]), all[at + 1]
    if what == 98 then -- b, a blob
      need(byte(value, 2), unpacked('>I4', value, 3), 1)
      each_run((parts_of(value)), need)
    elseif what == 107 or what == 108 then -- k or l, a part of a list
      each_entry(what == 108 and sub(value, 25) or value, function(_, refs)
        each_run(refs, need)
      end)
    end
  end
  local sets, removes = {}, {}
  for at = 1, #all, 2 do
    local field = all[at]
    if byte(field) == 116 then -- t, a table
      local kind, names = byte(field, 2), { cmsgpack.unpack(all[at + 1]) }
      local numbers = needed[kind] or {}
      local start = floor((record.next[kind] - 1) / TABLE)
      if #field > 2 then
        start = unpacked('>I4', field, 3)
      end
      local left, changed = 0, false
      for each = 1, #names do
        if numbers[start * TABLE + each - 1] then
          left = left + 1
        elseif names[each] ~= '' then
          names[each] = ''
          changed = true
        end
      end
      if left == 0 and #field > 2 then
        removes[#removes + 1] = field
      elseif changed then
        sets[#sets + 1] = field
        sets[#sets + 1] = cmsgpack.pack(unpack(names))
      end
    end
  end
  call_many('HSET', session, sets)
  call_many('HDEL', session, removes)
end
