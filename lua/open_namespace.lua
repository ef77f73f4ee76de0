#!lua
-- Creates a namespace: every key it will ever have, so that a Cluster slot can be migrated under load (a declared key that does
-- not exist makes a script wait for the whole migration). Each key holds one sentinel, under the empty name that no node, pool
-- or class can have. Does nothing to a namespace that is there.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 class_index   hash
--   6 capabilities  zset
--   7 members       zset
--   8 ready         zset
--   9 leases        zset
--   10 sessions     hash
--   11 nodes        hash
--   12 holds        hash
--   13 usage        hash
--   14 history      stream
--   15 events       stream
--   16 instances    hash
--   17 jobs         hash
--   18 due          zset
--   19 reserved     hash
--   20 tenants      hash
--   21 tenant_rules hash
--   22 routes       hash
--   23 affinities   hash
-- ARGV
--   1 auto       JSON object, the auto policy before any document
--   2 admission  JSON object, the admission policy before any document
--   3 selection  JSON object, the selection policy before any document
-- REPLY
--   CREATED version | EXISTS version | SCHEMA found | FOREIGN key
-- EVENTS config.bumped
-- COST O(1)

local CONFIG, HISTORY, EVENTS = KEYS[1], KEYS[14], KEYS[15]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/events.lua
--@include lib/history.lua

local auto, admission, selection = ARGV[1], ARGV[2], ARGV[3]
if #KEYS ~= 23 or #ARGV ~= 3 then
  return badarg('open_namespace takes 23 keys and 3 arguments')
end
if not object(auto) then
  return badarg('auto is no JSON object')
end
if not object(admission) then
  return badarg('admission is no JSON object')
end

if not object(selection) then
  return badarg('selection is no JSON object')
end

local found = redis.call('HMGET', CONFIG, 'schema', 'version')
if found[1] then
  if found[1] ~= SCHEMA then
    return { 'SCHEMA', found[1] }
  end
  return { 'EXISTS', found[2] or '0' }
end
-- Half a namespace is never adopted: a key that is there without its configuration belongs to somebody else, or was restored in part.
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then
    return { 'FOREIGN', key }
  end
end
local now = now_ms()

local no_permission = denied('HSET', 'ZADD', 'XADD')
if no_permission then
  return no_permission
end

for _, index in ipairs({ 2, 3, 4, 11, 12, 13, 16, 17, 19, 20, 22, 23 }) do
  redis.call('HSET', KEYS[index], '', '')
end
redis.call('HSET', KEYS[5], '', string.rep('-', 65)) -- so long that the hash is a table at once: up to 512 fields would be searched
redis.call('HSET', KEYS[10], '', SCHEMA)
redis.call('HSET', KEYS[21], '', '0 0 ') -- the rule of a tenant that the document does not name
redis.call('ZADD', KEYS[6], 0, '')
redis.call('ZADD', KEYS[7], -1, '')
redis.call('ZADD', KEYS[8], -1, '')
redis.call('ZADD', KEYS[9], '+inf', '')
redis.call('ZADD', KEYS[18], '+inf', '')
redis.call(
  'HSET', CONFIG, 'schema', SCHEMA, 'version', '1', 'document_version', '0', 'auto', auto, 'admission', admission, 'selection', selection,
  'admission_digest', string.sub(redis.sha1hex(admission), 1, 16), 'next_class', '1', 'next_pool', '1', 'epoch_floor', '0',
  'declared_pools', '0', 'created_at', digits(now), 'updated_at', digits(now), 'updated_by', ''
)
record_history(now, 1, 'created', '', 'namespace created', {}, '')
emit(now, 1, 'config.bumped', 'reason', 'namespace created')
return { 'CREATED', '1' }
