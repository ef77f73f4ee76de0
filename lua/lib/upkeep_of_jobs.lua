-- What upkeep does with reservations: those whose lease or whose node has ended, and what is remembered for no longer.
-- Uses: JOBS, DUE, RESERVED, SESSIONS, HOLDS, and of ledger.lua all that changes jobs.

local LAPSE_COST = 5 -- a reservation that lapses takes as long as so many that are forgotten
local ended_jobs, lost_jobs, settled, affinities_gone, is_more_due = 0, 0, {}, {}, false

local function jobs_on(node_id)
  local ids = {}
  for job_id in string.gmatch(slots_of_node(node_id).jobs, '%S+') do
    ids[#ids + 1] = job_id
  end
  return ids
end

local function lose(job_id, reason, now)
  local job = job_of(job_id)
  if job and is_live(job) then
    end_job(job_id, job, 'l', reason, now)
    ended_jobs, lost_jobs = ended_jobs + 1, lost_jobs + 1
  end
end

-- Ends all that is reserved on a node that is about to be forgotten. False if this step has no room for it: the node has to wait.
local function lose_with_node(node_id, now)
  local ids = jobs_on(node_id)
  if lost_jobs + #ids > MAX_ENDS then
    return false
  end
  for _, job_id in ipairs(ids) do
    lose(job_id, 'node_expired', now)
  end
  return true
end

-- What the document says of a node that began a new session or got a hold.
local function settle_node(node_id, policy, now)
  local session, held = parse_token(redis.call('HGET', SESSIONS, node_id)), redis.call('HEXISTS', HOLDS, node_id) == 1
  local ids = session and jobs_on(node_id) or {}
  if lost_jobs + #ids > MAX_ENDS then
    return false
  end
  for _, job_id in ipairs(ids) do
    local job = job_of(job_id)
    if job and policy.on_new_epoch == 'lose' and tonumber(job.epoch) < session.epoch then
      lose(job_id, 'new_epoch', now)
    elseif policy.on_drain == 'lose' and held then
      lose(job_id, 'drained', now)
    end
  end
  return true
end

-- Everything that is due, as far as the bounds allow.
local function settle_due(policy, now)
  local names, unread, left = redis.call('ZRANGEBYSCORE', DUE, '-inf', digits(now), 'LIMIT', 0, MAX_DUE), {}, MAX_DUE
  for _, name in ipairs(names) do
    if not string.match(name, '^[@!]') and jobs[name] == nil then
      unread[#unread + 1] = name
    end
  end
  if #unread > 0 then
    read_jobs(unread, now)
  end
  is_more_due = #names == MAX_DUE
  for _, name in ipairs(names) do
    if left <= 0 then
      is_more_due = true
      break
    end
    left = left - 1
    local kind = string.sub(name, 1, 1)
    if kind == '@' then
      affinities_gone[#affinities_gone + 1], settled[#settled + 1] = string.sub(name, 2), name
    elseif kind == '!' then
      if settle_node(string.sub(name, 2), policy, now) then
        settled[#settled + 1] = name
      end
    else
      local job = job_of(name)
      if job and is_live(job) then
        end_job(name, job, 'e', 'lease_lapsed', now)
        ended_jobs, left = ended_jobs + 1, left - LAPSE_COST + 1
      elseif not job or lease_end_of(name) <= now then
        forget_job(name)
      end
    end
  end
end

-- How many reservations have ended, and whether more is due than this step had room for.
local function outcome()
  return digits(ended_jobs), is_more_due and '1' or '0'
end

local function write_upkeep(now, version)
  write_ledger(now, version)
  bulk('ZREM', DUE, settled)
  bulk('HDEL', AFFINITIES, affinities_gone)
end
