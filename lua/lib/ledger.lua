-- What a call does to reservations: read, changed in memory, and written at once at the end. Jobs, the slots of nodes and those of tenants
-- are changed together here and nowhere else, so that none can drift from the others.
-- Uses: JOBS, DUE, RESERVED, TENANTS, READY, EVENTS.
--@include lib/jobs.lua
--@include lib/ready.lua

local jobs, known_ends, job_ends, nodes_with_jobs, tenants_with_jobs = {}, {}, {}, {}, {}
local changed_jobs, forgotten, happened, places, any_ended = {}, {}, {}, {}, false

local function read_jobs(ids, now)
  local stored, ends = redis.call('HMGET', JOBS, unpack(ids)), redis.call('ZMSCORE', DUE, unpack(ids))
  for index, job_id in ipairs(ids) do
    jobs[job_id] = parse_job(stored[index]) or false
    known_ends[job_id] = tonumber(ends[index] or now)
  end
end

-- When a job that has been read ends, or is forgotten.
local function lease_end_of(job_id)
  return job_ends[job_id] or known_ends[job_id]
end

-- A job as this call has it, or nil.
local function job_of(job_id)
  if jobs[job_id] == nil then
    read_jobs({ job_id }, 0)
  end
  return jobs[job_id] or nil
end

-- A node's reservations as this call has them: {used, before, jobs}; jobs are their ids, each between spaces.
local function slots_of_node(node_id)
  local node = nodes_with_jobs[node_id]
  if not node then
    local stored = redis.call('HGET', RESERVED, node_id) or '0'
    node = { used = used_slots(stored), jobs = (string.match(stored, ' .*') or '') .. ' ' }
    node.before = node.used
    nodes_with_jobs[node_id] = node
  end
  return node
end

-- Slots that a tenant's jobs have as this call has them: {used}.
local function slots_of_tenant(tenant)
  local found = tenants_with_jobs[tenant]
  if not found then
    found = { used = tonumber(redis.call('HGET', TENANTS, tenant) or 0) or 0 }
    tenants_with_jobs[tenant] = found
  end
  return found
end

local function add_slots(job, slots)
  local node = slots_of_node(job.node)
  node.used = math.max(node.used + slots, 0)
  node.changed = true
  if job.tenant ~= '' then
    local tenant = slots_of_tenant(job.tenant)
    tenant.used, tenant.changed = math.max(tenant.used + slots, 0), true
  end
end

local function put_job(job_id, job, lease_end)
  jobs[job_id], changed_jobs[job_id], job_ends[job_id] = job, true, lease_end
end

-- That a reservation, or its work, began: `emit_beginning` of write_ledger() says it.
local function note_beginning(job_id, job, reason)
  happened[#happened + 1] = { job_id = job_id, job = job, reason = reason }
end

local function renew_job(job_id, lease_end)
  job_ends[job_id] = lease_end
end

local function take_slots(job_id, job, lease_end)
  add_slots(job, job.slots)
  local node = slots_of_node(job.node)
  node.jobs = node.jobs .. job_id .. ' '
  put_job(job_id, job, lease_end)
end

-- Ends a live reservation; it is remembered for a while.
local function end_job(job_id, job, state, reason, now)
  add_slots(job, -job.slots)
  local node = slots_of_node(job.node)
  local first, last = string.find(node.jobs, ' ' .. job_id .. ' ', 1, true)
  if first then
    node.jobs = string.sub(node.jobs, 1, first) .. string.sub(node.jobs, last + 1)
  end
  happened[#happened + 1] = { job_id = job_id, job = job, state = state, reason = reason }
  any_ended, job.state, job.reason = true, state, reason
  put_job(job_id, job, now + JOB_KEPT_MS)
end

local function has_ended()
  return any_ended
end

local function forget_job(job_id)
  jobs[job_id], changed_jobs[job_id] = false, nil
  forgotten[#forgotten + 1] = job_id
end

-- Where a node is in `ready`, if the caller knows: {id, class, load}. Then many can be moved by one command.
local function note_place(node)
  places[node.id] = node
end

-- Moves the nodes to where their slots put them in `ready`, those of them that are in it.
local function move_nodes()
  local moved = {}
  for node_id, node in pairs(nodes_with_jobs) do
    local place = places[node_id]
    if node.used ~= node.before and place then
      moved[#moved + 1], moved[#moved + 2] = ready_score(place.class, node.used, place.load), node_id
    elseif node.used ~= node.before then
      redis.call('ZADD', READY, 'XX', 'INCR', (node.used - node.before) * 2, node_id)
    end
  end
  if #moved > 0 then
    redis.call('ZADD', READY, 'XX', unpack(moved))
  end
end

-- Everything that was done, in as few commands as it takes. Events are in the order in which it was done: a call may end what it has
-- reserved. `emit_beginning(job_id, job, reason)` writes those of beginnings.
local function write_ledger(now, version, emit_beginning)
  local packed, ends = {}, {}
  for job_id in pairs(changed_jobs) do
    packed[#packed + 1], packed[#packed + 2] = job_id, join_job(jobs[job_id])
  end
  for job_id, lease_end in pairs(job_ends) do
    ends[#ends + 1], ends[#ends + 2] = lease_end, job_id
  end
  bulk('HSET', JOBS, packed)
  bulk('ZADD', DUE, ends)
  bulk('HDEL', JOBS, forgotten)
  bulk('ZREM', DUE, forgotten)
  local reserved, free = {}, {}
  for node_id, node in pairs(nodes_with_jobs) do
    if node.changed and node.jobs == ' ' then
      free[#free + 1] = node_id
    elseif node.changed then
      reserved[#reserved + 1], reserved[#reserved + 2] = node_id, digits(node.used) .. string.sub(node.jobs, 1, -2)
    end
  end
  bulk('HSET', RESERVED, reserved)
  bulk('HDEL', RESERVED, free)
  move_nodes()
  for tenant, found in pairs(tenants_with_jobs) do
    if found.changed then
      if found.used == 0 then
        redis.call('HDEL', TENANTS, tenant)
      else
        redis.call('HSET', TENANTS, tenant, digits(found.used))
      end
    end
  end
  for _, entry in ipairs(happened) do
    local job = entry.job
    if entry.state then
      emit(
        now, version, 'job.ended', 'job_id', entry.job_id, 'attempt', job.attempt, 'node_id', job.node, 'pool', job.pool,
        'slots', job.slots, 'tenant', job.tenant, 'state', JOB_STATES[entry.state], 'reason', entry.reason
      )
    else
      emit_beginning(entry.job_id, job, entry.reason)
    end
  end
end
