#!lua
-- Finds a node for each of some jobs and reserves slots of it, in one step with the configuration and the assignment: what it answers was
-- true, free and allowed at that instant. A further attempt takes the place of the one before it, whose node is left out unless it was
-- given back. Asked again for the same attempt it gives the same answer. Jobs are taken in order, each sees what those before it took.
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
--   9 sessions      hash
--   10 holds        hash
--   11 events       stream
--   12 jobs         hash
--   13 due          zset
--   14 reserved     hash
--   15 tenants      hash
--   16 tenant_rules hash
--   17 routes       hash
--   18 affinities   hash
-- ARGV, these sixteen for each of 1..128 jobs
--   1 mode           reserve, or plan: say what would be reserved, and change nothing
--   2 job_id         1..128 characters of [A-Za-z0-9._:-]
--   3 attempt        1..1000000: the last one's number, or one more
--   4 owner          1..64 characters of the same: who may speak for the attempt
--   5 slots          1..64
--   6 lease_ms       1..86400000
--   7 tenant         up to 64 characters of the same; empty = a public job
--   8 session        up to 128 characters of the same: jobs of one session like the same node; empty = none
--   9 src            language code
--   10 tgt           language code
--   11 services      service types, joined with commas; 64 at most
--   12 labels        JSON object of labels that the node must have; empty = none
--   13 scope         eligible or exact; empty = as the document says
--   14 exclude       node ids, joined with spaces; 64 at most
--   15 exclude_pools names of pools, joined with spaces; 64 at most
--   16 digest        1..40 hex digits: digest of the request
-- REPLY, one after the other for each job
--   OK fresh attempt state node epoch pool version slots lease_end
--     fresh = 0 if it had been reserved before; lease_end is in ms, of an ended job until when it is remembered
--   NONE version reasons missing
--     reasons = `name count`, joined with spaces; missing = capabilities that no class has, joined with spaces
--   STALE attempt state | FUTURE attempt | OWNER owner | CHANGED attempt | ENDED state reason | JOBS_FULL limit
--   or, for all of them: NO_NAMESPACE | SCHEMA found
-- EVENTS job.reserved job.ended
-- COST O(log n) a job, and 8192 nodes at most that are looked at since others are dead, taken or excluded; for a kind of
--   request that is new under this configuration also O(classes); where none is found O(1000)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CAPABILITIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local MEMBERS, READY, LEASES, SESSIONS, HOLDS, EVENTS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local JOBS, DUE, RESERVED, TENANTS = KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local TENANT_RULES, ROUTES, AFFINITIES = KEYS[16], KEYS[17], KEYS[18]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/claims.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/bulk.lua
--@include lib/ranges.lua
--@include lib/ledger.lua
--@include lib/requests.lua
--@include lib/routes.lua

local WIDTH = 16
local ARGV = ARGV

local count = #ARGV / WIDTH
if #KEYS ~= 18 or count < 1 or count > MAX_RESERVATIONS or count ~= math.floor(count) then
  return badarg('reserve_slots takes 18 keys and 1..128 times 16 arguments')
end
-- What is wrong with the arguments of a job, which begin behind this place, or nil.
local function malformed(at)
  local mode, digest = ARGV[at + 1], ARGV[at + 16]
  if mode ~= 'reserve' and mode ~= 'plan' then
    return 'mode must be reserve or plan'
  end
  return malformed_claim(ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 6])
    or ((not find(digest, '^%x+$') or #digest > 40) and 'digest') or malformed_request(ARGV[at + 5], unpack(ARGV, at + 7, at + 15))
end
-- Of tenants and of kinds of request, each once. A tenant without a rule has that of the empty name.
local wanted, ids, tenants, names, rules, routes = {}, {}, { '' }, {}, { [''] = true }, {}
for index = 1, count do
  local at = index * WIDTH - WIDTH
  local wrong = malformed(at)
  if wrong then
    return badarg(wrong)
  end
  local job_id, tenant, name = ARGV[at + 2], ARGV[at + 7], route_name(unpack(ARGV, at + 7, at + 13))
  ids[index] = job_id
  wanted[index] = {
    mode = ARGV[at + 1], job_id = job_id, attempt = ARGV[at + 3] + 0, owner = ARGV[at + 4], slots = ARGV[at + 5] + 0,
    lease_ms = ARGV[at + 6] + 0, tenant = tenant, session = ARGV[at + 8], excluded = set_of_names(ARGV[at + 14]),
    excluded_pools = set_of_names(ARGV[at + 15]), digest = ARGV[at + 16], route = name,
  }
  if not rules[tenant] then
    rules[tenant], tenants[#tenants + 1] = true, tenant
  end
  if routes[name] == nil then
    routes[name], names[#names + 1] = false, name
  end
end

-- Read. What is asked of every job is asked at once.
local config, refusal = read_config('version', 'next_class', 'selection')
if not config then
  return refusal
end
local now, version = now_ms(), tonumber(config.version)
read_jobs(ids, now)
local job_count = redis.call('HLEN', JOBS) - 1
redis.call('XLEN', EVENTS)
local tag, new_routes, new_affinities = route_tag(config), {}, {}
for index, stored in ipairs(redis.call('HMGET', ROUTES, unpack(names))) do
  routes[names[index]] = read_route(stored, tag)
end
local rules_stored = redis.call('HMGET', TENANT_RULES, unpack(tenants))
for index, stored in ipairs(rules_stored) do
  rules[tenants[index]] = tenant_rule(stored or rules_stored[1])
end

--@include lib/selecting.lua

local budget = { left = MAX_EXAMINED }

local function why_none(route, job, rule)
--@include lib/reasons.lua
  return reasons_of(route, job, rule, now, budget)
end

local function route_of(index, job)
  local route = routes[job.route]
  if not route then
    local at = index * WIDTH - WIDTH
    route = make_route(ARGV[at + 9], ARGV[at + 10], ARGV[at + 11], ARGV[at + 12], ARGV[at + 13], job.tenant == '', config, tag)
    if job.mode == 'reserve' then
      new_routes[#new_routes + 1] = { job.route, route.text }
    end
    routes[job.route] = route
  end
  return route
end

-- The session keeps the node for a while.
local function keep_affinity(job, node_id)
  local known = affinity_of(job.session)
  if known or redis.call('HLEN', AFFINITIES) - 1 + #new_affinities < MAX_AFFINITIES then
    note_affinity(job.session, node_id)
    new_affinities[#new_affinities + 1] = job.session
  end
end

local reply, words = {}, 0

-- Reserves for a job, and adds that to the reply; or returns what is to be answered.
local function reserve(index, job)
  local old = job_of(job.job_id)
  if old then
    if job.attempt < old.attempt then
      return { 'STALE', digits(old.attempt), JOB_STATES[old.state] }
    elseif job.attempt > old.attempt + 1 then
      return { 'FUTURE', digits(old.attempt) }
    elseif job.attempt == old.attempt then
      if job.owner ~= old.owner then
        return { 'OWNER', old.owner }
      elseif job.digest ~= old.digest then
        return { 'CHANGED', digits(old.attempt) }
      end
      return {
        'OK', '0', digits(old.attempt), JOB_STATES[old.state], old.node, old.epoch, old.pool, old.version, digits(old.slots),
        digits(lease_end_of(job.job_id)),
      }
    elseif old.state == 'f' then
      return { 'ENDED', JOB_STATES[old.state], old.reason }
    end
    if old.state ~= 'c' then
      job.excluded[old.node] = true
    end
  elseif job_count >= MAX_JOBS then
    return { 'JOBS_FULL', digits(MAX_JOBS) }
  end

  local rule, route = rules[job.tenant], route_of(index, job)
  local gives_back = old and is_live(old) and old
  if job.tenant ~= '' then
    local others = slots_of_tenant(job.tenant).used - (gives_back and old.tenant == job.tenant and old.slots or 0)
    if rule.slots > 0 and others + job.slots > rule.slots then
      return { 'NONE', config.version, 'quota 1', '' }
    end
  end
  local node, pool = choose(route, job, rule, now)
  local epoch = node and string.match(redis.call('HGET', SESSIONS, node.id) or '', '^(%d+):')
  if not epoch then
    return { 'NONE', config.version, why_none(route, job, rule), route.missing }
  end
  local lease_end = now + job.lease_ms
  if job.mode == 'reserve' then
    if gives_back then
      end_job(job.job_id, old, 'x', 'reassigned', now)
      note_used(old.node, slots_of_node(old.node).used)
    end
    job_count = job_count + (old and 0 or 1)
    local made = {
      attempt = job.attempt, state = 'v', epoch = epoch, slots = job.slots, version = config.version, node = node.id, pool = pool.name,
      tenant = job.tenant, owner = job.owner, session = job.session, digest = job.digest, reason = '',
    }
    take_slots(job.job_id, made, lease_end)
    note_place(node)
    note_used(node.id, node.used + job.slots)
    note_beginning(job.job_id, made, old and 'reassigned' or 'new')
    if pool.strategy == 'a' and job.session ~= '' then
      keep_affinity(job, node.id)
    end
  end
  local at = words
  words = at + 10
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4], reply[at + 5] = 'OK', '1', numeral(job.attempt), 'reserved', node.id
  reply[at + 6], reply[at + 7], reply[at + 8] = epoch, pool.name, config.version
  reply[at + 9], reply[at + 10] = numeral(job.slots), numeral(lease_end)
  return nil
end

for index = 1, count do
  local answer = reserve(index, wanted[index])
  for at = 1, answer and #answer or 0 do
    words = words + 1
    reply[words] = answer[at]
  end
end
local room = #new_routes > 0 and redis.call('HLEN', ROUTES) - 1 + #new_routes - MAX_ROUTES or 0
local forgotten_routes = {}
for _, name in ipairs(room > 0 and redis.call('HRANDFIELD', ROUTES, room + 1) or {}) do
  if name ~= '' then
    forgotten_routes[#forgotten_routes + 1] = name
  end
end

read_taken()

local no_permission = denied('HSET', 'ZADD', 'XADD') or (has_ended() or #forgotten_routes > 0) and denied('HDEL')
if no_permission then
  return no_permission
end

-- Write.
bulk('HDEL', ROUTES, forgotten_routes)
for _, route in ipairs(new_routes) do
  redis.call('HSET', ROUTES, route[1], route[2])
end
for _, session in ipairs(new_affinities) do
  redis.call('HSET', AFFINITIES, session, affinity_of(session))
  redis.call('ZADD', DUE, digits(now + AFFINITY_MS), '@' .. session)
end
write_ledger(now, version, function(job_id, job, reason)
  emit(
    now, version, 'job.reserved', 'job_id', job_id, 'attempt', job.attempt, 'node_id', job.node, 'pool', job.pool,
    'epoch', job.epoch, 'slots', job.slots, 'tenant', job.tenant, 'owner', job.owner, 'reason', reason
  )
end)
return reply
