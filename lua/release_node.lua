#!lua flags=allow-oom
-- A socket closed: if the session is still the caller's, the node takes no new work at once, and its lease is shortened to the
-- reconnect grace. It stays in its pool until the grace ends.
--
-- KEYS
--   1 config    hash
--   2 classes   hash
--   3 ready     zset
--   4 leases    zset
--   5 sessions  hash
--   6 events    stream
-- ARGV
--   1 node_id   1..128 characters of [A-Za-z0-9._:-]
--   2 epoch     the session's epoch
--   3 grace_ms  0..86400000
--   4 reason    why, for the event; up to 128 characters
-- REPLY
--   OK changed (0 if it had been released before) | STALE | UNKNOWN | NO_NAMESPACE | SCHEMA found
-- EVENTS node.released
-- COST O(log n)

local CONFIG, CLASSES, READY, LEASES, SESSIONS, EVENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/tokens.lua

local node_id, why = ARGV[1], ARGV[4]
local epoch = integer(ARGV[2], 1, 9007199254740991)
local grace_ms = integer(ARGV[3], 0, 86400000)
if #KEYS ~= 6 or #ARGV ~= 4 then
  return badarg('release_node takes 6 keys and 4 arguments')
end
if not is_id(node_id, 128) then
  return badarg('node_id')
end
if not epoch then
  return badarg('epoch')
end
if not grace_ms then
  return badarg('grace_ms must be 0..86400000')
end
if #why > 128 then
  return badarg('reason is longer than 128 characters')
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local now = now_ms()
local session = parse_token(redis.call('HGET', SESSIONS, node_id))
if not session then
  return { 'UNKNOWN' }
end
if session.epoch ~= epoch then
  return { 'STALE' }
end
if session.status == 'o' then
  return { 'OK', '0' }
end
redis.call('ZSCORE', READY, node_id)
redis.call('XLEN', EVENTS)
local pool = redis.call('HGET', CLASSES, session.class) or ''
local lease_end = tonumber(redis.call('ZSCORE', LEASES, node_id) or 0)

local no_permission = denied('ZREM', 'ZADD', 'HSET', 'XADD')
if no_permission then
  return no_permission
end

redis.call('ZREM', READY, node_id)
redis.call('ZADD', LEASES, digits(math.min(lease_end, now + grace_ms)), node_id)
redis.call('HSET', SESSIONS, node_id, make_token(epoch, session.class, 'o', session.digest))
emit(now, tonumber(config.version), 'node.released', 'node_id', node_id, 'pool', pool, 'epoch', digits(epoch), 'reason', why)
return { 'OK', '1' }
