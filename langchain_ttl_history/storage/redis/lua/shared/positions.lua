-- Which positions entries get.

-- A number that counts up with another one, and none of whose bytes is 193: records tell positions, and what contains that
-- byte cannot be shortened.
local function spread(number)
  local found, unit = 0, 1
  while number > 0 do
    local digit = number % 255
    found = found + (digit < 193 and digit or digit + 1) * unit
    number, unit = floor(number / 255), unit * 256
  end
  return found
end

-- The position of an entry that is appended: it tells the session's age in quarters of a millisecond, or is the next number
-- where that is given out. So a server that lost writes gives none of their positions again, which some run may have seen.
local function next_position(record, now)
  local after, unit = record.position + 1, 1
  -- Of its bytes only the one that was carried to is a new one.
  while after % (unit * 256) == 0 do
    unit = unit * 256
  end
  if after / unit % 256 == 193 then
    after = after + unit
  end
  return math.max(after, spread(floor((now - record.created) / 250)))
end
