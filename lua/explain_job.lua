#!lua flags=no-writes
-- Which node a job would get now, and what is against each node, by the code that reserves.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 capabilities  zset
--   6 members       zset
--   7 ready         zset
--   8 leases        zset
--   9 holds         hash
--   10 tenants      hash
--   11 tenant_rules hash
--   12 affinities   hash
-- ARGV
--   1 job_id         1..128 characters of [A-Za-z0-9._:-]
--   2 slots          1..64
--   3 tenant         up to 64 characters of the same; empty = a public job
--   4 session        up to 128 characters of the same; empty = none
--   5 src            language code
--   6 tgt            language code
--   7 services       service types, joined with commas; 64 at most
--   8 labels         JSON object of labels that the node must have; empty = none
--   9 scope          eligible or exact; empty = as the document says
--   10 exclude       node ids, joined with spaces; 64 at most
--   11 exclude_pools names of pools, joined with spaces; 64 at most
-- REPLY
--   OK version node pool reasons missing
--     node and pool are empty if there is none; reasons = `name count`, joined with spaces; missing = capabilities that no class has
--     nodes, and for each: node pool reason (empty if nothing is against it)
--   NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(classes + 1000 nodes)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CAPABILITIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local MEMBERS, READY, LEASES, HOLDS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local TENANTS, TENANT_RULES, AFFINITIES = KEYS[10], KEYS[11], KEYS[12]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/ranges.lua
--@include lib/requests.lua
--@include lib/routes.lua

if #KEYS ~= 12 or #ARGV ~= 11 then
  return badarg('explain_job takes 12 keys and 11 arguments')
end
if not is_id(ARGV[1], 128) then
  return badarg('job_id')
end
local wrong = malformed_request(unpack(ARGV, 2))
if wrong then
  return badarg(wrong)
end
local job = {
  job_id = ARGV[1], attempt = 1, slots = tonumber(ARGV[2]), tenant = ARGV[3], session = ARGV[4], excluded = set_of_names(ARGV[10]),
  excluded_pools = set_of_names(ARGV[11]),
}

local config, refusal = read_config('version', 'next_class', 'selection')
if not config then
  return refusal
end
local now = now_ms()
--@include lib/selecting.lua
--@include lib/reasons.lua

local own_rule, usual_rule = unpack(redis.call('HMGET', TENANT_RULES, job.tenant, ''))
local rule = tenant_rule(own_rule or usual_rule)
local route = make_route(ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], job.tenant == '', config, route_tag(config))
local node, pool
local used = job.tenant ~= '' and tonumber(redis.call('HGET', TENANTS, job.tenant) or 0) or 0
local over_quota = job.tenant ~= '' and rule.slots > 0 and used + job.slots > rule.slots
if not over_quota then
  node, pool = choose(route, job, rule, now)
end
local reasons = over_quota and 'quota 1' or reasons_of(route, job, rule, now, { left = MAX_EXAMINED })
local flat = { 'OK', config.version, node and node.id or '', pool and pool.name or '', reasons, route.missing, '0' }

-- Each node of a thousand, with what is against it.
local rows, seen = 0, {}
local function append_row(node_id, of_pool, reason)
  rows = rows + 1
  flat[#flat + 1], flat[#flat + 2], flat[#flat + 3] = node_id, of_pool, reason
end
local function append_class(class, reason)
  seen[class] = true
  local of_pool = redis.call('HGET', CLASSES, class) or ''
  for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, class, class, 'LIMIT', 0, MAX_EXAMINED - rows)) do
    append_row(node_id, of_pool, reason)
  end
end
local budget = { left = MAX_EXAMINED }
for of_route in pools_of(route) do
  local reason = against_pool(of_route, job, rule)
  for _, class in ipairs(classes_of(of_route)) do
    if reason then
      append_class(class, reason)
    else
      seen[class] = true
      examine(class, job, of_route.capacity, now, budget, function(node_id, of_node)
        append_row(node_id, of_route.name, of_node)
      end)
    end
  end
end
for reason, classes in string.gmatch(route.rejected, '([^:;]+):([%d,]+)') do
  for class in string.gmatch(classes, '%d+') do
    append_class(tonumber(class), reason)
  end
end
local class_map = redis.call('HGETALL', CLASSES)
for index = 1, #class_map, 2 do
  local class = tonumber(class_map[index])
  if class and not seen[class] then
    append_class(class, 'no_pair')
  end
end
flat[7] = digits(rows)
return flat
