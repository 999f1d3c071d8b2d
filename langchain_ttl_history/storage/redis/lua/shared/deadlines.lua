-- When sessions end.

-- The earliest and the latest deadline for a session that was used at this time. Any deadline in between will do, so
-- that most uses need not move it.
local function deadlines_for(record, used, idle, age)
  if record.own == 1 then
    idle = -1
  elseif record.own > 1 then
    idle = record.own
  end
  local first, last = huge, huge
  if idle >= 0 then
    first = used + idle
    last = first + floor(idle / 10)
  end
  if age >= 0 then
    first, last = math.min(first, record.created + age), math.min(last, record.created + age)
  end
  return first, last
end

-- By how much a session's last use may be later than the recorded one: a tenth of its idle time, or a tenth of a second
-- if it has no deadline.
local function lag_of(record)
  return record.deadline == 0 and 100000 or floor((record.deadline - record.used) / 11)
end

-- The time of a use. Where clients tell it, a request may come in behind one that was made later, and must not end the
-- session before what that was promised; such requests have a margin.
local function time_of_use(record, now, margin)
  return margin > 0 and math.max(now, record.used) or now
end

-- Counts a use; says whether that moved the deadline.
local function use(record, now, idle, age)
  local earliest, latest = deadlines_for(record, now, idle, age)
  local deadline = record.deadline == 0 and huge or record.deadline
  if deadline >= earliest and deadline <= latest and now - record.used <= lag_of(record) then
    return false
  end
  record.used = now
  record.deadline = latest == huge and 0 or latest
  return true
end

-- Sets the deadline anew for a change. `own` is the session's own idle time from now on, as `change.lua` gets it; upkeep
-- is no use of a session, so its deadline then counts from the last one.
local function renew(record, own, upkeep, now, idle, age)
  local used = now
  if upkeep then
    used = math.min(now, record.used + lag_of(record))
  else
    record.used = now
  end
  if own >= 0 then
    record.own = own
  end
  local earliest, latest = deadlines_for(record, used, idle, age)
  if upkeep then
    -- The last use may be later than the one recorded.
    local _, known = deadlines_for(record, record.used, idle, age)
    latest = math.max(earliest, known)
  end
  record.deadline = latest == huge and 0 or latest
end

-- Which of a few entries in the user's hash are of expired sessions but this one, or expired tombstones. Each creation
-- looks at some, so that they do not pile up; one that is damaged must not stop it.
local function some_expired(digest, now)
  local found, some = {}, call('HRANDFIELD', user, 8, 'WITHVALUES')
  for at = 1, #some, 2 do
    if some[at] ~= '.' and some[at] ~= 's' .. digest and #some[at + 1] >= 16 then
      local _, ended = unpacked('>I8I8', some[at + 1])
      if ended ~= 0 and ended <= now then
        found[#found + 1] = some[at]
      end
    end
  end
  return found
end
