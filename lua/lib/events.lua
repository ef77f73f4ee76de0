-- Appends one entry to the capped event stream. The first of a call sees to the cap: to look again at each of many takes time.
-- Uses: EVENTS. Takes pairs of field and value after the type.
local is_capped = false

local function emit(now, version, kind, ...)
  if is_capped then
    redis.call('XADD', EVENTS, '*', 'type', kind, 'at', now, 'version', version, ...)
  else
    redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'at', now, 'version', version, ...)
    is_capped = true
  end
end
