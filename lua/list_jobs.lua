#!lua flags=no-writes
-- Jobs in one look: a page of those that are known, in the order in which something is due for them (its lease ends, or it has ended and
-- is forgotten), or those named. A job that is renewed while pages are read moves to the end: it may come twice, and is not left out.
--
-- KEYS
--   1 config    hash
--   2 jobs      hash
--   3 due       zset
--   4 reserved  hash
-- ARGV
--   1 after_ms  0..9007199254740991: next_ms of the page before; 0 for the first one
--   2 after     up to 129 characters: next of the page before; empty for the first one
--   3 limit     1..1000: jobs at most
--   4 node      only jobs of this node; empty = of any
--   5 pool      only jobs whose node was chosen in this pool; empty = in any
--   6 tenant    only jobs of this tenant; empty = of any, or of none
--   7 owner     only jobs of this owner; empty = of any
--   8 state     only jobs in this state, or live: reserved or running; empty = in any
--   9.. ids     up to 1000 job ids: these, and no page
-- REPLY
--   OK version now total next_ms next
--     total = all jobs that are known; next is empty if there is no further page
--     jobs, and for each: job_id lease_end attempt state node epoch pool version slots tenant owner session reason
--     lease_end is in ms, of an ended job until when it is remembered
--   NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(log n): at most 1000 entries of `due` are looked at, so that a page may have fewer jobs than there are, or none; or all live
--   jobs of one node, 500 at most

local CONFIG, JOBS, DUE, RESERVED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/namespace.lua
--@include lib/jobs.lua

local LIVE, STEP = 'live', 100

local after_ms, after, limit = integer(ARGV[1], 0, 9007199254740991), ARGV[2], integer(ARGV[3], 1, MAX_JOB_PAGE)
local node, pool, tenant, owner, state = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if #KEYS ~= 4 or #ARGV < 8 or #ARGV > 8 + MAX_JOB_PAGE then
  return badarg('list_jobs takes 4 keys and 8..1008 arguments')
end
if not after_ms or not limit then
  return badarg('after_ms or limit')
end
if not string.match(after, '^[@!]?[A-Za-z0-9._:-]*$') or #after > 129 then
  return badarg('after')
end
if node ~= '' and not is_id(node, 128) then
  return badarg('node')
end
if not string.match(pool, '^[a-z0-9._-]*$') or #pool > 128 then
  return badarg('pool')
end
if tenant ~= '' and not is_id(tenant, 64) then
  return badarg('tenant')
end
if owner ~= '' and not is_id(owner, 64) then
  return badarg('owner')
end
local wanted = {}
for letter, name in pairs(JOB_STATES) do
  if state == '' or state == name or state == LIVE and is_live({ state = letter }) then
    wanted[letter] = true
  end
end
if not next(wanted) then
  return badarg('state must be live or a state')
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local now, rows, count = now_ms(), {}, 0
local next_ms, next_name = 0, ''

local function fits(job)
  return wanted[job.state]
    and (node == '' or job.node == node)
    and (pool == '' or job.pool == pool)
    and (tenant == '' or job.tenant == tenant)
    and (owner == '' or job.owner == owner)
end

-- Appends those that fit of some names; at the limit it notes where it stopped, and returns true.
local function append_jobs(names, ends)
  for index, stored in ipairs(redis.call('HMGET', JOBS, unpack(names))) do
    local job, lease_end = parse_job(stored), ends[index] or '0'
    if job and fits(job) then
      for _, word in ipairs({
        names[index], lease_end, digits(job.attempt), JOB_STATES[job.state], job.node, job.epoch, job.pool, job.version,
        digits(job.slots), job.tenant, job.owner, job.session, job.reason,
      }) do
        rows[#rows + 1] = word
      end
      count = count + 1
      if count == limit then
        next_ms, next_name = tonumber(lease_end), names[index]
        return true
      end
    end
  end
  return false
end

local function names_given()
  local names = {}
  for index = 9, #ARGV do
    names[#names + 1] = ARGV[index]
  end
  return names
end

-- What holds slots of the node, in the same order as a page, from where the page before it ended.
local function append_live_jobs()
  local held, names, ends = {}, {}, {}
  for job_id in string.gmatch(string.match(redis.call('HGET', RESERVED, node) or '', ' .*') or '', '%S+') do
    names[#names + 1] = job_id
  end
  for index, lease_end in ipairs(#names > 0 and redis.call('ZMSCORE', DUE, unpack(names)) or {}) do
    held[index] = { job_id = names[index], lease_end = tonumber(lease_end or 0) }
  end
  local function comes_first(left, right)
    if left.lease_end ~= right.lease_end then
      return left.lease_end < right.lease_end
    end
    return left.job_id < right.job_id
  end
  table.sort(held, comes_first)
  names = {}
  for _, one in ipairs(held) do
    if comes_first({ job_id = after, lease_end = after_ms }, one) then
      names[#names + 1], ends[#ends + 1] = one.job_id, digits(one.lease_end)
    end
  end
  if #names > 0 and append_jobs(names, ends) and next_name == names[#names] then
    next_name = ''
  end
end

-- Where the page begins: behind the entry that the page before ended with, or, if that has moved, with those that are due when it was.
local function first_rank()
  if after == '' then
    return 0
  end
  if tonumber(redis.call('ZSCORE', DUE, after) or -1) == after_ms then
    return redis.call('ZRANK', DUE, after) + 1
  end
  return redis.call('ZCOUNT', DUE, '-inf', '(' .. digits(after_ms))
end

local function append_page()
  local rank = first_rank()
  for first = rank, rank + MAX_JOB_PAGE - 1, STEP do
    local flat, names, ends = redis.call('ZRANGE', DUE, first, first + STEP - 1, 'WITHSCORES'), {}, {}
    for index = 1, #flat, 2 do
      names[#names + 1], ends[#ends + 1] = flat[index], flat[index + 1]
    end
    if #names > 0 and append_jobs(names, ends) then
      return
    end
    if #names < STEP then
      next_name = ''
      return
    end
    -- The last entry of all has no name: behind it is no page.
    next_ms, next_name = tonumber(ends[STEP]), names[STEP]
  end
end

if #ARGV > 8 then
  local names = names_given()
  append_jobs(names, redis.call('ZMSCORE', DUE, unpack(names)))
  next_name = ''
elseif node ~= '' and not (wanted.f or wanted.x or wanted.c or wanted.e or wanted.l) then
  append_live_jobs()
else
  append_page()
end

next_ms = next_name == '' and 0 or next_ms
local flat = { 'OK', config.version, digits(now), digits(redis.call('HLEN', JOBS) - 1), digits(next_ms), next_name, digits(count) }
for _, word in ipairs(rows) do
  flat[#flat + 1] = word
end
return flat
