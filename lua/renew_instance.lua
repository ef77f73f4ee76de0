#!lua flags=allow-oom
-- Renews, or with a lease of 0 gives up, the lease of a scheduler instance. Where the table is full, a further instance takes the
-- place of the one whose lease lapsed first.
--
-- KEYS
--   1 config     hash
--   2 instances  hash
-- ARGV
--   1 instance  1..64 characters of [A-Za-z0-9._:-]
--   2 lease_ms  0..86400000; 0 = leave
--   3 info      JSON object, up to 4096 bytes, kept unread
-- REPLY
--   OK changed | INSTANCES_FULL limit | NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(1); for a further instance while the table is full O(MAX_INSTANCES)

local CONFIG, INSTANCES = KEYS[1], KEYS[2]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua

local instance, info = ARGV[1], ARGV[3]
local lease_ms = integer(ARGV[2], 0, 86400000)
if #KEYS ~= 2 or #ARGV ~= 3 then
  return badarg('renew_instance takes 2 keys and 3 arguments')
end
if not is_id(instance, 64) then
  return badarg('instance')
end
if not lease_ms then
  return badarg('lease_ms must be 0..86400000')
end
if string.sub(info, 1, 1) ~= '{' or #info > 4096 then
  return badarg('info must be a JSON object of up to 4096 bytes')
end

local config, refusal = read_config()
if not config then
  return refusal
end
local now = now_ms()
local known = redis.call('HEXISTS', INSTANCES, instance) == 1
local makes_room
if lease_ms > 0 and not known and redis.call('HLEN', INSTANCES) - 1 >= MAX_INSTANCES then
  local first = now
  local instances = redis.call('HGETALL', INSTANCES)
  for index = 1, #instances, 2 do
    local lease_end = tonumber(string.match(instances[index + 1], '^(%d+) ')) or 0
    if instances[index] ~= '' and lease_end <= first then
      makes_room, first = instances[index], lease_end
    end
  end
  if not makes_room then
    return { 'INSTANCES_FULL', digits(MAX_INSTANCES) }
  end
end

local no_permission = denied('HSET', 'HDEL')
if no_permission then
  return no_permission
end

if lease_ms == 0 then
  return { 'OK', digits(redis.call('HDEL', INSTANCES, instance)) }
end
if makes_room then
  redis.call('HDEL', INSTANCES, makes_room)
end
redis.call('HSET', INSTANCES, instance, digits(now + lease_ms) .. ' ' .. info)
return { 'OK', '1' }
