#!lua flags=no-writes
-- Classes, and so pools, that can serve a language pair, whatever the pool is called: the source language in ASR, the target in
-- semantic, and in TTS too if the service tts is wanted; and every wanted service ready.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 capabilities  zset
--   6 members       zset
--   7 ready         zset
-- ARGV
--   1 src          language code
--   2 tgt          language code
--   3.. services   up to 64 service types
-- REPLY
--   OK version
--     classes, and for each: class pool pool_id facts nodes ready
--   NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(classes that have one of the capabilities)

local CONFIG, POOLS, CLASSES, CLASS_FACTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local CAPABILITIES, MEMBERS, READY = KEYS[5], KEYS[6], KEYS[7]
--@include lib/limits.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/facts.lua
--@include lib/capabilities.lua
--@include lib/pools.lua
--@include lib/ranges.lua

if #KEYS ~= 7 or #ARGV < 2 or #ARGV > 66 then
  return badarg('find_pools takes 7 keys and 2..66 arguments')
end
local services = {}
for index = 3, #ARGV do
  services[index - 2] = ARGV[index]
end
local wanted = wanted_capabilities(ARGV[1], ARGV[2], services)
if not wanted then
  return badarg('a language or service')
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local found = classes_with_all(wanted)
local flat = { 'OK', config.version, digits(#found) }
for _, class in ipairs(found) do
  local pool = redis.call('HGET', CLASSES, class) or ''
  flat[#flat + 1] = digits(class)
  flat[#flat + 1] = pool
  flat[#flat + 1] = digits(pool ~= '' and pool_number(redis.call('HGET', POOLS, pool)) or 0)
  flat[#flat + 1] = redis.call('HGET', CLASS_FACTS, class) or '{}'
  flat[#flat + 1] = digits(redis.call('ZCOUNT', MEMBERS, class, class))
  flat[#flat + 1] = digits(ready_count(class))
end
return flat
