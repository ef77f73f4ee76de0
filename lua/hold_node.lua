#!lua flags=allow-oom
-- Sets or lifts a hold: a reason, with an owner, why a node takes no new work. A node takes work only when no hold is left; an owner
-- lifts its own hold only; holds outlive sessions.
--
-- KEYS
--   1 config    hash
--   2 classes   hash
--   3 ready     zset
--   4 sessions  hash
--   5 holds     hash
--   6 usage     hash
--   7 reserved  hash
--   8 due       zset
--   9 events    stream
-- ARGV
--   1 node_id        1..128 characters of [A-Za-z0-9._:-]
--   2 operation      set or lift
--   3 owner          1..64 characters
--   4 reason         1..256 characters
--   5 allow_unknown  1 = a hold may be set on a node that is not there
-- REPLY
--   OK changed live holds
--     live = 1 if the node is in the store; holds = JSON object owner -> {reason, at}, empty for none
--     changed = 0 if there was nothing to do: a caller that lost the reply repeats its call
--   UNKNOWN | HOLDS_FULL limit | NO_NAMESPACE | SCHEMA found
-- EVENTS node.status
-- COST O(log n)

local CONFIG, CLASSES, READY, SESSIONS, HOLDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local USAGE, RESERVED, DUE, EVENTS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/tokens.lua
--@include lib/usage.lua
--@include lib/ready.lua

local node_id, operation, owner, why, allow_unknown = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if #KEYS ~= 9 or #ARGV ~= 5 then
  return badarg('hold_node takes 9 keys and 5 arguments')
end
if not is_id(node_id, 128) then
  return badarg('node_id')
end
if operation ~= 'set' and operation ~= 'lift' then
  return badarg('operation must be set or lift')
end
if #owner < 1 or #owner > 64 then
  return badarg('owner must have 1..64 characters')
end
if #why < 1 or #why > 256 then
  return badarg('reason must have 1..256 characters')
end
if allow_unknown ~= '0' and allow_unknown ~= '1' then
  return badarg('allow_unknown must be 0 or 1')
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local now = now_ms()
local session = parse_token(redis.call('HGET', SESSIONS, node_id))
local stored = redis.call('HGET', HOLDS, node_id)
redis.call('ZSCORE', READY, node_id)
redis.call('XLEN', EVENTS)
local load = usage_load(redis.call('HGET', USAGE, node_id))
local used = used_slots(redis.call('HGET', RESERVED, node_id))
redis.call('ZCARD', DUE)
local pool = session and redis.call('HGET', CLASSES, session.class) or ''
local holds = object(stored) or {}
local count = 0
for _ in pairs(holds) do
  count = count + 1
end
local live = session and '1' or '0'
if operation == 'set' then
  if not session and not stored and allow_unknown == '0' then
    return { 'UNKNOWN' }
  end
  if holds[owner] and holds[owner].reason == why then
    return { 'OK', '0', live, stored }
  end
  if not holds[owner] and count >= MAX_OWNERS then
    return { 'HOLDS_FULL', digits(MAX_OWNERS) }
  end
  if not stored and redis.call('HLEN', HOLDS) - 1 >= MAX_HOLDS then
    return { 'HOLDS_FULL', digits(MAX_HOLDS) }
  end
  holds[owner] = { reason = why, at = now }
else
  if not holds[owner] then
    return { 'OK', '0', live, stored or '' }
  end
  holds[owner] = nil
  count = count - 1
end
local held = operation == 'set' or count > 0
local encoded = held and cjson.encode(holds) or ''
local from_status = session and effective_status(session.status, stored) or ''
local to_status = session and effective_status(session.status, held) or ''

local no_permission = denied('HSET', 'HDEL', 'ZADD', 'ZREM', 'XADD')
if no_permission then
  return no_permission
end

if held then
  redis.call('HSET', HOLDS, node_id, encoded)
  redis.call('ZREM', READY, node_id)
  if used > 0 then
    redis.call('ZADD', DUE, digits(now), '!' .. node_id) -- the document says what becomes of its reservations
  end
else
  redis.call('HDEL', HOLDS, node_id)
  if session and session.status == 'r' then
    redis.call('ZADD', READY, ready_score(session.class, used, load), node_id)
  end
end
emit(
  now, tonumber(config.version), 'node.status', 'node_id', node_id, 'pool', pool, 'from', from_status, 'to', to_status,
  'hold', operation, 'owner', owner, 'reason', why
)
return { 'OK', '1', live, encoded }
