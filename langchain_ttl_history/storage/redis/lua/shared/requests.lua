-- What every write asks before it changes anything, remembers of itself, and answers.

-- The position after a request that was already done, or nil if it is new: a client that lost the answer sends its
-- request again, and that must not take effect twice.
local function position_after(record, request)
  local at = offset_of(record, request)
  if at then
    return unpacked('>I8', record.requests, at + 8)
  end
end

-- Whether a write continues what was deleted, while a tombstone with this fence stands; `record` is nil without a session.
local function is_fenced(session, record, fence, guarded, needs)
  if guarded >= 0 and guarded <= fence then
    return true
  end
  return needs ~= '' and not (record and call('HEXISTS', session, 'b' .. needs) == 1)
end

-- How the answer to a write that is stored begins: its numbers, with the epoch and the edition before it, and the newest
-- 8 requests; more do not come between two answers to a few threads. The weights of lists come next.
local function stored_answer(record, position, epoch, edition)
  local requests = sub(record.requests, 1, 128)
  return 'S' .. pack(
    '>I8I8I8I8I8I8I8I4', record.generation, position, record.bytes, epoch, record.epoch, edition, record.edition, #requests
  ) .. requests
end

-- Remembers the newest 64 requests, 16 bytes each. A request that is sent again is recognised if no more than 63 others
-- came in between, and even a busy process has fewer under way.
local function remember(record, request)
  record.requests = sub(request .. pack('>I8', record.position) .. record.requests, 1, 1024)
end
