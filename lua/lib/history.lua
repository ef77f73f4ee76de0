-- One history entry per config version; its stream id is '<version>-0', so a version can neither repeat nor be skipped unseen.
-- Uses: HISTORY.

-- True if an entry for the version can be added. To be asked before the first write: XADD refuses an id that does not grow.
local function history_accepts(version)
  local last = redis.call('XREVRANGE', HISTORY, '+', '-', 'COUNT', 1)[1]
  return not last or tonumber(string.match(last[1], '^(%d+)')) < version
end

-- `changes` is a list of {pool, change}.
local function record_history(now, version, kind, author, reason, changes, document)
  local encoded = #changes > 0 and cjson.encode(changes) or '[]'
  redis.call(
    'XADD', HISTORY, 'MAXLEN', HISTORY_KEPT, digits(version) .. '-0', 'at', digits(now), 'kind', kind,
    'author', author, 'reason', reason, 'changes', encoded, 'document', document
  )
end
