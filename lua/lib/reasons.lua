-- Why no node can take a job: each node that cannot is counted under the first thing that is against it.
-- A budget, {left}, says how many nodes may still be looked at. Uses: MEMBERS, READY, LEASES, HOLDS, and selecting.lua.

-- What is against each node of a class, of those that may still be looked at: calls `tell(node_id, reason)`; an empty reason is none.
-- Returns how many were looked at.
local function examine(class, job, capacity, now, budget, tell)
  local ids = budget.left > 0 and redis.call('ZRANGEBYSCORE', MEMBERS, class, class, 'LIMIT', 0, budget.left) or {}
  budget.left = budget.left - #ids
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    local scores = redis.call('ZMSCORE', READY, unpack(ids, first, last))
    local leases = redis.call('ZMSCORE', LEASES, unpack(ids, first, last))
    local holds = redis.call('HMGET', HOLDS, unpack(ids, first, last))
    for index = first, last do
      local score, place = scores[index - first + 1], index - first + 1
      local reason = ''
      if job.excluded[ids[index]] then
        reason = 'excluded'
      elseif holds[place] then
        reason = 'draining'
      elseif not score then
        reason = 'not_ready'
      elseif tonumber(leases[place] or 0) <= now then
        reason = 'lapsed'
      elseif (used_now[ids[index]] or read_ready(class, score)) + job.slots > capacity then
        reason = 'no_slot'
      end
      tell(ids[index], reason)
    end
  end
  return #ids
end

-- What is against a whole pool, or nil.
local function against_pool(pool, job, rule)
  if job.excluded_pools[pool.name] then
    return 'pool_excluded'
  end
  return rule.strict and pool.name ~= rule.pool and 'tenant' or nil
end

-- `name count`, joined with spaces. What is found only by looking at nodes one by one is counted for the first thousand of a call.
local function reasons_of(route, job, rule, now, budget)
  local counts, able = {}, 0
  local function add(reason, nodes)
    counts[reason] = (counts[reason] or 0) + nodes
  end
  local function add_class(reason, class)
    local nodes = redis.call('ZCOUNT', MEMBERS, class, class)
    able = able + nodes
    add(reason, nodes)
  end
  for reason, classes in string.gmatch(route.rejected, '([^:;]+):([%d,]+)') do
    for class in string.gmatch(classes, '%d+') do
      add_class(reason, class)
    end
  end
  for pool in pools_of(route) do
    local reason = against_pool(pool, job, rule)
    for _, class in ipairs(classes_of(pool)) do
      if reason then
        add_class(reason, class)
      else
        local nodes = redis.call('ZCOUNT', MEMBERS, class, class)
        able = able + nodes
        local looked_at = examine(class, job, pool.capacity, now, budget, function(_, of_node)
          add(of_node ~= '' and of_node or 'passed_over', 1)
        end)
        add('not_looked_at', nodes - looked_at)
      end
    end
  end
  add('no_pair', redis.call('ZCARD', MEMBERS) - 1 - able)
  local parts = {}
  for reason, nodes in pairs(counts) do
    if nodes > 0 then
      parts[#parts + 1] = reason .. ' ' .. digits(nodes)
    end
  end
  table.sort(parts)
  return table.concat(parts, ' ')
end
