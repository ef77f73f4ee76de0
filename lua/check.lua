#!lua flags=no-writes
-- Checks the invariants of the stored state in one consistent look. It holds the store for about a microsecond or two a node:
-- a command for operators and tests, not for a timer.
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
-- REPLY
--   OK version nodes pools
--     violations, and for each: invariant detail
--   NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(n * log n + pools * classes + jobs)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CLASS_INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CAPABILITIES, MEMBERS, READY, LEASES, SESSIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local NODES, HOLDS, USAGE, HISTORY, EVENTS, INSTANCES = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local JOBS, DUE, RESERVED, TENANTS, TENANT_RULES, ROUTES = KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21], KEYS[22]
local AFFINITIES = KEYS[23]
--@include lib/limits.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/tokens.lua
--@include lib/records.lua
--@include lib/ranges.lua
--@include lib/facts.lua
--@include lib/matcher.lua
--@include lib/pools.lua
--@include lib/rules.lua
--@include lib/jobs.lua

if #KEYS ~= 23 or #ARGV ~= 0 then
  return badarg('check takes 23 keys and no arguments')
end
local config, refusal = read_config(
  'version', 'auto', 'declared_pools', 'next_class', 'next_pool', 'document_version', 'admission', 'admission_digest'
)
if not config then
  return refusal
end
local violations, found = {}, 0
local function violation(invariant, detail)
  found = found + 1
  if found <= MAX_VIOLATIONS then
    violations[#violations + 1] = digits(invariant)
    violations[#violations + 1] = detail
  end
end

-- Pools.
local view = decode_pools(read_pools(cjson.decode(config.auto)))
for _, name in ipairs(view.damaged) do
  violation(2, 'pool ' .. name .. ' is damaged')
end
local numbers, declared = {}, 0
for name, pool in pairs(view.pools) do
  local other = numbers[pool.id]
  if other then
    local pair = { name, other }
    table.sort(pair)
    violation(2, 'pools ' .. table.concat(pair, ' and ') .. ' have the same number ' .. digits(pool.id))
  end
  numbers[pool.id] = name
  if pool.id >= tonumber(config.next_pool) then
    violation(2, 'pool ' .. name .. ' has number ' .. digits(pool.id) .. ', which is yet to be given out')
  end
  if pool.origin == 'declared' then
    declared = declared + 1
    if pool.needs and not demands_it(pool) then
      violation(4, 'pool ' .. name .. ' says that it needs ' .. pool.needs .. ', which its rule does not demand')
    end
  end
end
if declared ~= tonumber(config.declared_pools) then
  violation(4, 'declared pools: ' .. declared .. ' are there, the configuration counts ' .. config.declared_pools)
end
local pool_count = declared + view.autos

index_rules(view)

-- Classes: 2 (pool, facts, capability entries) and 4 (the matcher agrees).
local class_map, classes, capability_count = redis.call('HGETALL', CLASSES), {}, 0
for index = 1, #class_map, 2 do
  local field, pool = class_map[index], class_map[index + 1]
  local class = tonumber(field)
  if field ~= '' and class then
    classes[class] = pool
    if class >= tonumber(config.next_class) then
      violation(2, 'class ' .. field .. ' is yet to be given out')
    end
    if pool ~= '' and not view.pools[pool] then
      violation(2, 'class ' .. field .. ' maps to pool ' .. pool .. ', which does not exist')
    end
    local facts_json = redis.call('HGET', CLASS_FACTS, field)
    local facts = facts_json and parse_facts(facts_json)
    if not facts then
      violation(2, 'class ' .. field .. ' has no facts')
    else
      if redis.call('HGET', CLASS_INDEX, redis.sha1hex(facts_json)) ~= field then
        violation(2, 'class ' .. field .. ' is not in the class index')
      end
      local entries = capability_entries(facts, class)
      capability_count = capability_count + #entries
      for _, entry in ipairs(entries) do
        if not redis.call('ZSCORE', CAPABILITIES, entry) then
          violation(2, 'class ' .. field .. ' lacks the capability entry ' .. entry)
        end
      end
      local expected, reason = place_by_index(view, facts)
      if (expected or '') ~= pool then
        violation(4, 'class ' .. field .. ' maps to "' .. pool .. '", the matcher says "' .. (expected or '') .. '" (' .. reason .. ')')
      end
    end
  end
end
local class_count = #class_map / 2 - 1
for name, key in pairs({ class_facts = CLASS_FACTS, class_index = CLASS_INDEX }) do
  if redis.call('HLEN', key) - 1 ~= class_count then
    violation(2, name .. ' knows ' .. digits(redis.call('HLEN', key) - 1) .. ' classes of ' .. digits(class_count))
  end
end
if redis.call('ZCARD', CAPABILITIES) - 1 ~= capability_count then
  violation(2, 'the capability index has ' .. digits(redis.call('ZCARD', CAPABILITIES) - 1) .. ' entries of ' .. digits(capability_count))
end

-- Members: 1 and 3.
local node_count = redis.call('ZCARD', MEMBERS) - 1
for name, key in pairs({ sessions = SESSIONS, nodes = NODES, usage = USAGE }) do
  if redis.call('HLEN', key) - 1 ~= node_count then
    violation(1, name .. ' knows ' .. digits(redis.call('HLEN', key) - 1) .. ' nodes, members ' .. digits(node_count))
  end
end
if redis.call('ZCARD', LEASES) - 1 ~= node_count then
  violation(1, 'leases knows ' .. digits(redis.call('ZCARD', LEASES) - 1) .. ' nodes, members ' .. digits(node_count))
end
local ready_seen = 0

-- Reservations, as their jobs say: 9 (the slots of nodes and tenants are the sum of theirs) and 10 (each has a node and a lease).
local slots_of_node, slots_of_tenant, jobs_of_node = {}, {}, {}
local function look_at_job(job_id, stored)
  local job = parse_job(stored)
  if not job then
    violation(10, 'job ' .. job_id .. ' is damaged')
    return
  end
  if not redis.call('ZSCORE', DUE, job_id) then
    violation(10, 'job ' .. job_id .. ' has no end')
  end
  if is_live(job) then
    slots_of_node[job.node] = (slots_of_node[job.node] or 0) + job.slots
    jobs_of_node[job.node] = jobs_of_node[job.node] or {}
    jobs_of_node[job.node][job_id] = true
    if job.tenant ~= '' then
      slots_of_tenant[job.tenant] = (slots_of_tenant[job.tenant] or 0) + job.slots
    end
    local session = parse_token(redis.call('HGET', SESSIONS, job.node))
    if not session then
      violation(10, 'job ' .. job_id .. ' is reserved on node ' .. job.node .. ', which members lack')
    elseif session.epoch < tonumber(job.epoch) then
      violation(10, 'job ' .. job_id .. ' has a later epoch than its node ' .. job.node)
    end
  end
end
local cursor = '0'
repeat
  local page = redis.call('HSCAN', JOBS, cursor, 'COUNT', CHUNK)
  cursor = page[1]
  for index = 1, #page[2], 2 do
    if page[2][index] ~= '' then
      look_at_job(page[2][index], page[2][index + 1])
    end
  end
until cursor == '0'
local reserved = redis.call('HGETALL', RESERVED)
for index = 1, #reserved, 2 do
  local node_id, stored = reserved[index], reserved[index + 1]
  if node_id ~= '' then
    local used, of_jobs = used_slots(stored), slots_of_node[node_id] or 0
    if used ~= of_jobs then
      violation(9, 'node ' .. node_id .. ' has ' .. used .. ' slots reserved, its jobs have ' .. of_jobs)
    end
    local jobs = jobs_of_node[node_id] or {}
    for job_id in string.gmatch(stored, ' (%S+)') do
      if not jobs[job_id] then
        violation(10, 'node ' .. node_id .. ' names job ' .. job_id .. ', which is not reserved on it')
      end
      jobs[job_id] = nil
    end
    if next(jobs) then
      violation(10, 'node ' .. node_id .. ' does not name job ' .. next(jobs))
    end
    jobs_of_node[node_id] = nil
  end
end
for node_id, jobs in pairs(jobs_of_node) do
  violation(10, 'node ' .. node_id .. ' does not name job ' .. next(jobs))
end
local tenants = redis.call('HGETALL', TENANTS)
for index = 1, #tenants, 2 do
  local tenant, used = tenants[index], tonumber(tenants[index + 1])
  if tenant ~= '' then
    if used ~= slots_of_tenant[tenant] then
      violation(9, 'tenant ' .. tenant .. ' has ' .. tenants[index + 1] .. ' slots, its jobs have ' .. (slots_of_tenant[tenant] or 0))
    end
    slots_of_tenant[tenant] = nil
  end
end
for tenant in pairs(slots_of_tenant) do
  violation(9, 'tenant ' .. tenant .. ' has slots and is not known')
end

for first = 1, node_count, CHUNK do
  local page = redis.call('ZRANGE', MEMBERS, first, first + CHUNK - 1, 'WITHSCORES')
  for index = 1, #page, 2 do
    local node_id, class = page[index], tonumber(page[index + 1])
    local session = parse_token(redis.call('HGET', SESSIONS, node_id))
    if not classes[class] then
      violation(1, 'node ' .. node_id .. ' is in class ' .. page[index + 1] .. ', which does not exist')
    end
    if not session then
      violation(1, 'node ' .. node_id .. ' has no session')
    elseif session.class ~= class then
      violation(3, 'node ' .. node_id .. ': its session says class ' .. digits(session.class) .. ', members say ' .. page[index + 1])
    end
    if not record_header(redis.call('HGET', NODES, node_id)) then
      violation(1, 'node ' .. node_id .. ' has no record')
    end
    if redis.call('HEXISTS', USAGE, node_id) == 0 then
      violation(1, 'node ' .. node_id .. ' is not in usage')
    end
    if not redis.call('ZSCORE', LEASES, node_id) then
      violation(1, 'node ' .. node_id .. ' has no lease')
    end
    local score = tonumber(redis.call('ZSCORE', READY, node_id) or nil)
    local held = redis.call('HEXISTS', HOLDS, node_id) == 1
    if score then
      ready_seen = ready_seen + 1
      local used, load = read_ready(class, score)
      if used < 0 or used * 2 + load >= CLASS_SPAN then
        violation(3, 'node ' .. node_id .. ' is in ready under another class than in members')
      elseif used ~= (slots_of_node[node_id] or 0) then
        violation(9, 'node ' .. node_id .. ' is in ready with ' .. used .. ' slots reserved, its jobs have others')
      elseif load > 1 then
        violation(3, 'node ' .. node_id .. ' is in ready with a load above 1')
      end
      if held then
        violation(3, 'node ' .. node_id .. ' has a hold and is in ready')
      end
      if session and session.status ~= 'r' then
        violation(3, 'node ' .. node_id .. ' is in ready and its status is ' .. STATUS_NAMES[session.status])
      end
    elseif session and session.status == 'r' and not held then
      violation(3, 'node ' .. node_id .. ' is ready, has no hold, and is not in ready')
    end
  end
end
if redis.call('ZCARD', READY) - 1 ~= ready_seen then
  violation(3, 'ready knows nodes that members lack')
end

-- 5: the version and its history.
local version = tonumber(config.version)
local newest = redis.call('XREVRANGE', HISTORY, '+', '-', 'COUNT', 1)[1]
local oldest = redis.call('XRANGE', HISTORY, '-', '+', 'COUNT', 1)[1]
if not newest or newest[1] ~= digits(version) .. '-0' then
  violation(5, 'the newest history entry is ' .. (newest and newest[1] or 'missing') .. ', the version is ' .. config.version)
else
  local first = tonumber(string.match(oldest[1], '^(%d+)'))
  if redis.call('XLEN', HISTORY) ~= version - first + 1 then
    violation(5, 'the history has gaps between ' .. digits(first) .. ' and ' .. config.version)
  end
end
if tonumber(config.document_version) > version then
  violation(5, 'the document version is ahead of the version')
end
if string.sub(redis.sha1hex(config.admission), 1, 16) ~= config.admission_digest then
  violation(5, 'the admission digest is not that of the admission policy')
end

-- 11: every key is there, with its sentinel.
for _, key in ipairs({
  POOLS, CLASSES, CLASS_FACTS, CLASS_INDEX, SESSIONS, NODES, HOLDS, USAGE, INSTANCES,
  JOBS, RESERVED, TENANTS, TENANT_RULES, ROUTES, AFFINITIES,
}) do
  if redis.call('HEXISTS', key, '') == 0 then
    violation(11, key .. ' lacks its sentinel')
  end
end
for _, key in ipairs({ CAPABILITIES, MEMBERS, READY, LEASES, DUE }) do
  if not redis.call('ZSCORE', key, '') then
    violation(11, key .. ' lacks its sentinel')
  end
end
if redis.call('XLEN', EVENTS) == 0 and redis.call('EXISTS', EVENTS) == 0 then
  violation(11, EVENTS .. ' is gone')
end
if found > MAX_VIOLATIONS then
  violations[#violations + 1] = '0'
  violations[#violations + 1] = digits(found - MAX_VIOLATIONS) .. ' more violations are not listed'
end
local flat = { 'OK', config.version, digits(node_count), digits(pool_count), digits(#violations / 2) }
for _, item in ipairs(violations) do
  flat[#flat + 1] = item
end
return flat
