-- A job as stored: `attempt state epoch slots version node pool tenant owner session digest reason`, empty for none; the reason comes
-- last, since it may hold spaces. When its lease ends, or, once it has ended, when it is forgotten, is in `due`.
-- The state letter: v reserved, r running, which hold slots; f finished, x failed, c released, e lapsed, l lost, which do not.
local JOB_STATES = {
  v = 'reserved', r = 'running', f = 'finished', x = 'failed', c = 'released', e = 'lapsed', l = 'lost',
}

-- A job as a table, or nil for no job or a damaged one.
local function parse_job(stored)
  local attempt, state, epoch, slots, version, node, pool, tenant, owner, session, digest, reason = string.match(
    stored or '', '^(%d+) ([vrfxcel]) (%d+) (%d+) (%d+) (%S*) (%S*) (%S*) (%S*) (%S*) (%x*) (.*)$'
  )
  if not attempt then
    return nil
  end
  return {
    attempt = tonumber(attempt), state = state, epoch = epoch, slots = tonumber(slots), version = version, node = node, pool = pool,
    tenant = tenant, owner = owner, session = session, digest = digest, reason = reason,
  }
end

-- Attempts, slots and ends of leases as text: those of a call are nearly all the same few numbers.
local numerals = {}

local function numeral(number)
  local text = numerals[number]
  if not text then
    text = digits(number)
    numerals[number] = text
  end
  return text
end

local function join_job(job)
  return numeral(job.attempt) .. ' ' .. job.state .. ' ' .. job.epoch .. ' ' .. numeral(job.slots) .. ' ' .. job.version .. ' '
    .. job.node .. ' ' .. job.pool .. ' ' .. job.tenant .. ' ' .. job.owner .. ' ' .. job.session .. ' ' .. job.digest .. ' '
    .. job.reason
end

local function is_live(job)
  return job.state == 'v' or job.state == 'r'
end
