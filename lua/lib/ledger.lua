-- What a call does to reservations: read, changed in memory, and written at once at the end. Jobs, the slots of nodes and those of tenants
-- are changed together here and nowhere else, so that none can drift from the others.
-- Uses: JOBS, DUE, RESERVED, TENANTS, READY, EVENTS.
--@include lib/jobs.lua
--@include lib/ready.lua

local jobs, changed_jobs, renewed, nodes_with_jobs, tenants_with_jobs = {}, {}, {}, {}, {}
local forgotten, happened, places, any_ended = {}, {}, {}, false

local function read_jobs(ids, now)
  local stored, ends = redis.call('HMGET', JOBS, unpack(ids)), redis.call('ZMSCORE', DUE, unpack(ids))
  for index, job_id in ipairs(ids) do
    local job = stored[index] and parse_job(stored[index]) or false
    if job then
      job.lease_end = tonumber(ends[index] or now)
    end
    jobs[job_id] = job
  end
end

-- When a job that has been read ends, or is forgotten.
local function lease_end_of(job_id)
  return jobs[job_id].lease_end
end

-- A job as this call has it, or nil.
local function job_of(job_id)
  if jobs[job_id] == nil then
    read_jobs({ job_id }, 0)
  end
  return jobs[job_id] or nil
end

-- What this call has taken of nodes whose reservations it has not read, which it does all at once when it has taken the last:
-- slots, and ids of jobs, each with a space behind it.
local taken, taken_by = {}, {}

local function put_node(node_id, stored)
  local used, ids = 0, ' '
  if stored then
    used, ids = used_slots(stored), (string.match(stored, ' .*') or '') .. ' '
  end
  local node = { used = used, before = used, changed = false, jobs = ids }
  nodes_with_jobs[node_id] = node
  return node
end

-- A node's reservations as this call has them: {used, before, changed, jobs}; jobs are their ids, each between spaces.
local function slots_of_node(node_id)
  local node, slots = nodes_with_jobs[node_id] or put_node(node_id, redis.call('HGET', RESERVED, node_id)), taken[node_id]
  if slots then
    node.used, node.jobs, node.changed, taken[node_id] = node.used + slots, node.jobs .. taken_by[node_id], true, nil
  end
  return node
end

local function read_taken()
  local ids = {}
  for node_id in pairs(taken) do
    ids[#ids + 1] = node_id
  end
  for index, stored in ipairs(#ids > 0 and redis.call('HMGET', RESERVED, unpack(ids)) or {}) do
    if not nodes_with_jobs[ids[index]] then
      put_node(ids[index], stored)
    end
    slots_of_node(ids[index])
  end
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

local function add_to_tenant(job, slots)
  if job.tenant ~= '' then
    local tenant = slots_of_tenant(job.tenant)
    tenant.used, tenant.changed = math.max(tenant.used + slots, 0), true
  end
end

local function add_slots(job, slots)
  local node = slots_of_node(job.node)
  node.used, node.changed = math.max(node.used + slots, 0), true
  add_to_tenant(job, slots)
  return node
end

local function put_job(job_id, job, lease_end)
  jobs[job_id], changed_jobs[job_id], job.lease_end = job, true, lease_end
end

-- That a reservation, or its work, began: `emit_beginning` of write_ledger() says it.
local function note_beginning(job_id, job, reason)
  happened[#happened + 1] = { job_id = job_id, job = job, reason = reason }
end

local function renew_job(job_id, lease_end)
  local job = jobs[job_id]
  renewed[job_id], job.lease_end = job, lease_end
end

local function take_slots(job_id, job, lease_end)
  local node_id, slots = job.node, taken[job.node]
  taken[node_id], taken_by[node_id] = (slots or 0) + job.slots, (slots and taken_by[node_id] or '') .. job_id .. ' '
  add_to_tenant(job, job.slots)
  put_job(job_id, job, lease_end)
end

-- Ends a live reservation; it is remembered for a while.
local function end_job(job_id, job, state, reason, now)
  local node = add_slots(job, -job.slots)
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
  local moved, length = { 'XX' }, 1
  for node_id, node in pairs(nodes_with_jobs) do
    local place = places[node_id]
    if node.used ~= node.before and place then
      moved[length + 1], moved[length + 2], length = ready_score(place.class, node.used, place.load), node_id, length + 2
    elseif node.used ~= node.before then
      redis.call('ZADD', READY, 'XX', 'INCR', (node.used - node.before) * 2, node_id)
    end
  end
  if length > 1 then
    redis.call('ZADD', READY, unpack(moved))
  end
end

-- Everything that was done, in as few commands as it takes. Events are in the order in which it was done: a call may end what it has
-- reserved. `emit_beginning(job_id, job, reason)` writes those of beginnings.
local function write_ledger(now, version, emit_beginning)
  local packed, ends, reserved, free, length = {}, {}, {}, {}, 0
  for job_id in pairs(changed_jobs) do
    local job = jobs[job_id]
    packed[length + 1], packed[length + 2] = job_id, join_job(job)
    ends[length + 1], ends[length + 2] = job.lease_end, job_id
    length = length + 2
  end
  for job_id, job in pairs(renewed) do
    ends[length + 1], ends[length + 2] = job.lease_end, job_id
    length = length + 2
  end
  bulk('HSET', JOBS, packed)
  bulk('ZADD', DUE, ends)
  bulk('HDEL', JOBS, forgotten)
  bulk('ZREM', DUE, forgotten)
  length = 0
  for node_id, node in pairs(nodes_with_jobs) do
    if node.changed and node.jobs == ' ' then
      free[#free + 1] = node_id
    elseif node.changed then
      reserved[length + 1], reserved[length + 2] = node_id, numeral(node.used) .. string.sub(node.jobs, 1, -2)
      length = length + 2
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
