-- One history entry per config version; its stream id is '<version>-0', so a version can neither repeat nor be skipped unseen.
-- Uses: HISTORY.

-- True if an entry for the version can be added. To be asked before the first write: XADD refuses an id that does not grow, and
-- remembers those of entries that were deleted.
local function history_accepts(version)
  if redis.call('EXISTS', HISTORY) == 0 then
    return true
  end
  local info, last = redis.call('XINFO', 'STREAM', HISTORY), ''
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then
      last = info[index + 1]
    end
  end
  return tonumber(string.match(last, '^(%d+)')) < version
end

-- `changes` is a list of {pool, change}.
local function record_history(now, version, kind, author, reason, changes, document)
  local encoded = #changes > 0 and cjson.encode(changes) or '[]'
  redis.call(
    'XADD', HISTORY, 'MAXLEN', HISTORY_KEPT, digits(version) .. '-0', 'at', digits(now), 'kind', kind,
    'author', author, 'reason', reason, 'changes', encoded, 'document', document
  )
end
