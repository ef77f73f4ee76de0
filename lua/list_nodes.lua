#!lua flags=no-writes
-- Nodes in one look: a page of all of them, a page of one pool's, or those named.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 members       zset
--   6 leases        zset
--   7 sessions      hash
--   8 nodes         hash
--   9 holds         hash
--   10 usage        hash
-- ARGV
--   1 mode    all, pool or ids
--   2 pool    name of the pool for mode pool, else empty
--   3 offset  0..1000000000: nodes to skip
--   4 limit   1..5000
--   5.. ids   for mode ids, up to 5000 node ids
-- REPLY
--   OK version now total
--     nodes, and for each: node_id token lease_end load instance holds
--     classes, and for each: class pool pool_id facts
--   NO_POOL | NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(offset + limit)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, MEMBERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LEASES, SESSIONS, NODES, HOLDS, USAGE = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/tokens.lua
--@include lib/records.lua
--@include lib/usage.lua
--@include lib/pools.lua
--@include lib/rows.lua

local mode, pool = ARGV[1], ARGV[2]
local offset, limit = integer(ARGV[3], 0, 1000000000), integer(ARGV[4], 1, MAX_PAGE)
if #KEYS ~= 10 or #ARGV < 4 or #ARGV > MAX_PAGE + 4 then
  return badarg('list_nodes takes 10 keys and 4..5004 arguments')
end
if mode ~= 'all' and mode ~= 'pool' and mode ~= 'ids' then
  return badarg('mode must be all, pool or ids')
end
if not offset or not limit then
  return badarg('offset or limit')
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local now = now_ms()
local ids, total = {}, redis.call('ZCARD', MEMBERS) - 1
if mode == 'ids' then
  for index = 5, #ARGV do
    ids[#ids + 1] = ARGV[index]
  end
elseif mode == 'all' then
  ids = redis.call('ZRANGEBYSCORE', MEMBERS, '0', '+inf', 'LIMIT', offset, limit)
else
  if pool == '' or redis.call('HEXISTS', POOLS, pool) == 0 then
    return { 'NO_POOL' }
  end
  total = 0
  local skip, class_map, numbers = offset, redis.call('HGETALL', CLASSES), {}
  for index = 1, #class_map, 2 do
    if class_map[index + 1] == pool then
      numbers[#numbers + 1] = tonumber(class_map[index])
    end
  end
  table.sort(numbers)
  for _, class in ipairs(numbers) do
    local count = redis.call('ZCOUNT', MEMBERS, class, class)
    total = total + count
    if skip < count and #ids < limit then
      for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, class, class, 'LIMIT', skip, limit - #ids)) do
        ids[#ids + 1] = node_id
      end
    end
    skip = math.max(skip - count, 0)
  end
end

local rows, classes, class_rows, count, class_count = {}, {}, {}, 0, 0
for _, node_id in ipairs(ids) do
  local class = append_node(rows, node_id)
  if class then
    count = count + 1
    if not classes[class] then
      classes[class] = true
      class_count = class_count + 1
      append_class(class_rows, class)
    end
  end
end
local flat = { 'OK', config.version, digits(now), digits(total), digits(count) }
for _, item in ipairs(rows) do
  flat[#flat + 1] = item
end
flat[#flat + 1] = digits(class_count)
for _, item in ipairs(class_rows) do
  flat[#flat + 1] = item
end
return flat
