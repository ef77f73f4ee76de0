#!lua flags=allow-oom
-- What the owner of a job says of its reservation: that it needs it for longer, has started, is done with it, or gives it back. Who
-- speaks under an older attempt, or is not the owner, is told so, and nothing is changed. An ended reservation gives its slots back.
--
-- KEYS
--   1 config    hash
--   2 ready     zset
--   3 events    stream
--   4 jobs      hash
--   5 due       zset
--   6 reserved  hash
--   7 tenants   hash
-- ARGV, these six for each of 1..128 jobs
--   1 operation  renew, start (which renews, too), finish, fail or release
--   2 job_id     1..128 characters of [A-Za-z0-9._:-]
--   3 attempt    1..1000000
--   4 owner      1..64 characters of the same: who reserved
--   5 lease_ms   1..86400000: the new lease of renew and start; any for the others
--   6 reason     why, for the event; up to 128 characters
-- REPLY, one after the other for each job
--   OK state lease_end
--     lease_end is in ms; of an ended job until when it is remembered
--   STALE attempt state | FUTURE attempt | UNKNOWN | OWNER owner | ENDED state reason
--   or, for all of them: NO_NAMESPACE | SCHEMA found
-- EVENTS job.started job.ended
-- COST O(log n) a job

local CONFIG, READY, EVENTS, JOBS, DUE, RESERVED, TENANTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/claims.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/bulk.lua
--@include lib/ledger.lua

local WIDTH = 6
local ENDS = { finish = 'f', fail = 'x', release = 'c' }

local count = #ARGV / WIDTH
if #KEYS ~= 7 or count < 1 or count > MAX_JOB_UPDATES or count ~= math.floor(count) then
  return badarg('update_jobs takes 7 keys and 1..128 times 6 arguments')
end
local function malformed(operation, job_id, attempt, owner, lease_ms, why)
  if operation ~= 'renew' and operation ~= 'start' and not ENDS[operation] then
    return 'operation must be renew, start, finish, fail or release'
  end
  return malformed_claim(job_id, attempt, owner, lease_ms) or (#why > 128 and 'reason is longer than 128 characters') or nil
end
local ids = {}
for index = 1, count do
  local at = index * WIDTH
  local wrong = malformed(unpack(ARGV, at - WIDTH + 1, at))
  if wrong then
    return badarg(wrong)
  end
  ids[index] = ARGV[at - 4]
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local now, version = now_ms(), tonumber(config.version)
read_jobs(ids, now)
redis.call('ZCARD', READY)
redis.call('XLEN', EVENTS)
redis.call('HLEN', RESERVED)
redis.call('HLEN', TENANTS)

local function update(operation, job_id, attempt, owner, lease_ms, why)
  local job = job_of(job_id)
  if not job then
    return { 'UNKNOWN' }
  end
  if attempt < job.attempt then
    return { 'STALE', digits(job.attempt), JOB_STATES[job.state] }
  end
  if attempt > job.attempt then
    return { 'FUTURE', digits(job.attempt) }
  end
  if owner ~= job.owner then
    return { 'OWNER', job.owner }
  end
  local to = ENDS[operation]
  if not is_live(job) then
    if job.state ~= to then
      return { 'ENDED', JOB_STATES[job.state], job.reason }
    end
  elseif to then
    end_job(job_id, job, to, why ~= '' and why or operation, now)
  else
    if operation == 'start' and job.state == 'v' then
      job.state = 'r'
      put_job(job_id, job, now + lease_ms)
      note_beginning(job_id, job)
    end
    renew_job(job_id, now + lease_ms)
  end
  return { 'OK', JOB_STATES[job.state], digits(lease_end_of(job_id)) }
end
local reply = {}
for index = 1, count do
  local at = index * WIDTH
  local operation, job_id, attempt, owner, lease_ms, why = unpack(ARGV, at - WIDTH + 1, at)
  for _, word in ipairs(update(operation, job_id, tonumber(attempt), owner, tonumber(lease_ms), why)) do
    reply[#reply + 1] = word
  end
end

local no_permission = denied('HSET', 'HDEL', 'ZADD', 'ZREM', 'XADD')
if no_permission then
  return no_permission
end

-- Write.
write_ledger(now, version, function(job_id, job)
  emit(now, version, 'job.started', 'job_id', job_id, 'attempt', digits(job.attempt), 'node_id', job.node, 'pool', job.pool)
end)
return reply
