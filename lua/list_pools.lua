#!lua flags=no-writes
-- Every pool with its counts, in one look; with a name, that pool alone and the facts of its classes.
--
-- KEYS
--   1 config       hash
--   2 pools        hash
--   3 classes      hash
--   4 class_facts  hash
--   5 members      zset
--   6 ready        zset
-- ARGV
--   1 name  pool to show, empty = all
-- REPLY
--   OK version document_version nodes
--     pools, and for each: name json
--     classes, and for each: class pool nodes ready facts (facts empty unless a pool is named)
--   NO_POOL | NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(pools + classes * log n)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, MEMBERS, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
--@include lib/limits.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/ranges.lua

local name = ARGV[1]
if #KEYS ~= 6 or #ARGV ~= 1 then
  return badarg('list_pools takes 6 keys and 1 argument')
end

local config, refusal = read_config('version', 'document_version')
if not config then
  return refusal
end
local flat = { 'OK', config.version, config.document_version, digits(redis.call('ZCARD', MEMBERS) - 1) }
if name ~= '' then
  local stored = redis.call('HGET', POOLS, name)
  if not stored then
    return { 'NO_POOL' }
  end
  flat[#flat + 1] = '1'
  flat[#flat + 1] = name
  flat[#flat + 1] = stored
else
  local pools = redis.call('HGETALL', POOLS)
  flat[#flat + 1] = digits(#pools / 2 - 1)
  for index = 1, #pools, 2 do
    if pools[index] ~= '' then
      flat[#flat + 1] = pools[index]
      flat[#flat + 1] = pools[index + 1]
    end
  end
end
local class_map, rows = redis.call('HGETALL', CLASSES), {}
for index = 1, #class_map, 2 do
  local class, pool = class_map[index], class_map[index + 1]
  if class ~= '' and (name == '' or name == pool) then
    local number = tonumber(class)
    rows[#rows + 1] = class
    rows[#rows + 1] = pool
    rows[#rows + 1] = digits(redis.call('ZCOUNT', MEMBERS, number, number))
    rows[#rows + 1] = digits(ready_count(number))
    rows[#rows + 1] = name ~= '' and redis.call('HGET', CLASS_FACTS, class) or ''
  end
end
flat[#flat + 1] = digits(#rows / 5)
for _, item in ipairs(rows) do
  flat[#flat + 1] = item
end
return flat
