#!lua flags=no-writes
-- Why a node is where it is: all that is known of it, and every pool with the constraints that it does not meet, by the matcher
-- that places it.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 capabilities  zset
--   6 members       zset
--   7 leases        zset
--   8 sessions      hash
--   9 nodes         hash
--   10 holds        hash
--   11 usage        hash
-- ARGV
--   1 node_id    1..128 characters of [A-Za-z0-9._:-]
--   2 decisions  1 = with every pool, 0 = the node alone
-- REPLY
--   OK version now node_id token lease_end load instance holds class pool pool_id facts from to version at why record usage reason
--     decisions, and for each: pool origin matches chosen failed
--     failed = names of constraints, joined with a newline
--   UNKNOWN | NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(pools)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CAPABILITIES, MEMBERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local LEASES, SESSIONS, NODES, HOLDS, USAGE = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/tokens.lua
--@include lib/records.lua
--@include lib/usage.lua
--@include lib/facts.lua
--@include lib/matcher.lua
--@include lib/pools.lua
--@include lib/rules.lua
--@include lib/waiting.lua
--@include lib/rows.lua

local node_id, decisions = ARGV[1], ARGV[2]
if #KEYS ~= 11 or #ARGV ~= 2 then
  return badarg('explain_node takes 11 keys and 2 arguments')
end
if not is_id(node_id, 128) then
  return badarg('node_id')
end
if decisions ~= '0' and decisions ~= '1' then
  return badarg('decisions must be 0 or 1')
end

local config, refusal = read_config('version', 'auto')
if not config then
  return refusal
end
local now = now_ms()
local flat = { 'OK', config.version, digits(now) }
local class = append_node(flat, node_id)
if not class then
  return { 'UNKNOWN' }
end
append_class(flat, class)
local stored = redis.call('HGET', NODES, node_id)
local header = record_header(stored) or empty_header()
for _, name in ipairs({ 'from', 'to', 'version', 'at', 'reason' }) do
  flat[#flat + 1] = header[name]
end
flat[#flat + 1] = string.match(stored or '', '\n(.*)') or '{}'
flat[#flat + 1] = usage_json(redis.call('HGET', USAGE, node_id))

local auto = cjson.decode(config.auto)
local facts = parse_facts(redis.call('HGET', CLASS_FACTS, class) or '{}')
local set_name = language_set_name(facts)
local view = decode_pools(read_pools(auto))
local chosen, reason = place(view, facts, set_name)
if reason == 'no_pool' then
  local nodes = class_nodes(class)
  for _, entry in ipairs(classes_waiting_for(auto, set_name, class)) do
    nodes = nodes + entry.nodes
  end
  reason = denial(auto, nodes, view.autos) or 'awaiting_reconcile'
end
flat[#flat + 1] = reason
if decisions == '0' then
  flat[#flat + 1] = '0'
  return flat
end

local names = {}
for name, pool in pairs(view.pools) do
  if pool.origin == 'auto' then
    names[#names + 1] = name
  end
end
table.sort(names)
flat[#flat + 1] = digits(#view.declared + #names)
local function append_decision(pool, failed)
  flat[#flat + 1] = pool.name
  flat[#flat + 1] = pool.origin
  flat[#flat + 1] = #failed == 0 and '1' or '0'
  flat[#flat + 1] = pool.name == chosen and '1' or '0'
  flat[#flat + 1] = table.concat(failed, '\n')
end
for _, pool in ipairs(view.declared) do
  local failed = {}
  meets(pool.match, facts, failed)
  append_decision(pool, failed)
end
for _, name in ipairs(names) do
  local failed = {}
  if name ~= set_name then
    failed[1] = 'languages.exact'
  end
  for _, service in ipairs(missing_services(auto, facts)) do
    failed[#failed + 1] = 'services.' .. service
  end
  append_decision(view.pools[name], failed)
end
return flat
