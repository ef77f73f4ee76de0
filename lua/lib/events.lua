-- Appends one entry to the capped event stream.
-- Uses: EVENTS. Takes pairs of field and value after the type.
local function emit(now, version, kind, ...)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'at', now, 'version', version, ...)
end
