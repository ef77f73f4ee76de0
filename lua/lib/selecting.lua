-- Level two: a node of a pool's classes that has the slots free, is alive and is not excluded. And, where there is none, why.
-- Uses: READY, LEASES, AFFINITIES.

-- Slots of the nodes that this call has reserved some of, or given some back.
local used_now = {}

local function note_used(node_id, used)
  used_now[node_id] = used
end

-- Nodes of sessions, as this call has them.
local affinities = {}

local function affinity_of(session)
  if affinities[session] == nil then
    affinities[session] = redis.call('HGET', AFFINITIES, session)
  end
  return affinities[session]
end

local function note_affinity(session, node_id)
  affinities[session] = node_id
end

-- Nodes as READY says them, flat with scores, without those whose lease has ended: a list of {id, used, load}.
local function living(class, flat, now, list)
  local ids = {}
  for index = 1, #flat, 2 do
    ids[#ids + 1] = flat[index]
  end
  if #ids > 0 then
    for index, lease_end in ipairs(redis.call('ZMSCORE', LEASES, unpack(ids))) do
      if tonumber(lease_end or 0) > now then
        local used, load = read_ready(class, flat[index * 2])
        list[#list + 1] = { id = ids[index], used = used, load = load, stored = used }
      end
    end
  end
  return list
end

local function can_take(node, job, capacity)
  node.used = used_now[node.id] or node.used
  return node.used + job.slots <= capacity and not job.excluded[node.id]
end

local function load_of(node, capacity)
  return math.max(node.load, node.used / capacity)
end

local function make_chance()
--@include lib/chance.lua
  return BY_CHANCE
end

local by_chance

-- What of lib/chance.lua is asked for, made when it first is.
local function of_chance(name)
  if not by_chance then
    by_chance = make_chance()
  end
  return by_chance[name]
end

local pages = {}

-- The nodes of a class with a free slot among which the least loaded is, fewest slots first. Each class is looked at once in a call.
local function page_of(class, capacity, window, job, now)
  if pages[class] then
    return pages[class]
  end
  local list, bucket = {}, 0
  local _, high = ready_range(class, capacity - 1)
  while bucket < capacity do
    local flat = redis.call('ZRANGEBYSCORE', READY, class * CLASS_SPAN + bucket * 2, high, 'WITHSCORES', 'LIMIT', 0, window)
    living(class, flat, now, list)
    if #flat < window * 2 then
      break
    end
    -- Nodes with more slots reserved are less loaded only where these are busy with something else.
    bucket = read_ready(class, flat[#flat]) + 1
    local least = math.huge
    for _, node in ipairs(list) do
      least = math.min(least, math.max(node.load, node.used / capacity))
    end
    if least <= bucket / capacity then
      break
    end
  end
  if #list == 0 and bucket > 0 then
    living(
      class, redis.call('ZRANGEBYSCORE', READY, class * CLASS_SPAN, high, 'WITHSCORES', 'LIMIT', window, SECOND_LOOK), now, list
    )
  end
  if #list == 0 and bucket > 0 then
    list = of_chance('from_leases')(class, job, now)
  end
  pages[class] = list
  return list
end

-- Of nodes with equally many slots reserved the first one that nothing was taken of is the best: those after it have more load.
local function least_loaded(list, job, capacity, best)
  local passed
  for _, node in ipairs(list) do
    if best and node.stored / capacity >= best.weight and node.stored ~= best.node.stored then
      break
    end
    if node.stored ~= passed and can_take(node, job, capacity) then
      local weight = load_of(node, capacity)
      if not best or weight < best.weight or (weight == best.weight and node.used < best.node.used) then
        best = { node = node, weight = weight }
      end
      passed = not used_now[node.id] and node.stored or passed
    end
  end
  return best
end

-- The node of a pool that the job gets, or nil.
local function node_of_pool(pool, job, window, now)
  local classes, capacity, strategy = classes_of(pool), pool.capacity, pool.strategy
  if job.slots > capacity then
    return nil
  end
  local best
  if strategy == 'a' and job.session ~= '' then
    local node_id = affinity_of(job.session)
    best = node_id and of_chance('former_node')(node_id, classes, job, capacity, now)
    if best then
      return best.node
    end
  end
  if (strategy == 'r' or strategy == 'p') and #classes <= MAX_COMPARED then
    local any_of = of_chance('any_of')
    best = any_of(classes, job, capacity, now, ' first')
    local other = best and strategy == 'p' and any_of(classes, job, capacity, now, ' second')
    if best then
      return other and other.weight < best.weight and other.node or best.node
    end
  end
  local first, compared = #classes > MAX_COMPARED and of_chance('chance')(job, #classes, ' class') or 0, 0
  for index = 0, #classes - 1 do
    local list = page_of(classes[(first + index) % #classes + 1], capacity, window, job, now)
    local found = least_loaded(list, job, capacity, best)
    if found then
      best, compared = found, compared + 1
      if compared == MAX_COMPARED then
        break
      end
    end
  end
  return best and best.node
end

-- The first node of the route's pools, with its pool; or nil. A tenant's own pool comes first.
local function choose(route, job, rule, window, now)
  local own
  for _, pool in ipairs(route.pools) do
    own = pool.name == rule.pool and pool or own
  end
  for index = own and 0 or 1, rule.strict and 0 or #route.pools do
    local pool = index == 0 and own or route.pools[index]
    if not job.excluded_pools[pool.name] and (index == 0 or pool ~= own) then
      local node = node_of_pool(pool, job, window, now)
      if node then
        return node, pool
      end
    end
  end
  return nil
end
