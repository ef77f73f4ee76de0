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

-- What this call has read of each class: its runs, each the nodes with equally many slots reserved, the least loaded first. Only as much
-- is read as is needed to know the best; a run is read on when its first ones are taken, excluded or dead. A run's `flat` has its ids
-- and scores as they were read: of most nodes the load is never asked.
local FIRST_STEP, MAX_STEP, PATIENCE = 2, 64, 32
local NO_NODES, min, max = {}, math.min, math.max
local looks, nodes_left = {}, MAX_LOOKED

local function read_on(look, run)
  local ids, known, count = run.ids, #run.ids, min(run.step, look.left, nodes_left)
  local flat = redis.call('ZRANGEBYSCORE', READY, run.low, look.high, 'WITHSCORES', 'LIMIT', known, count)
  local length = #flat
  look.left, nodes_left, run.step = look.left - count, nodes_left - count, min(run.step * 2, MAX_STEP)
  run.whole = length < count * 2
  if length == 0 then
    return
  end
  if known == 0 then
    run.used, run.flat = read_ready(look.class, flat[2]), flat
    run.base = look.class * CLASS_SPAN + run.used * 2
  else
    for index = 1, length do
      run.flat[known * 2 + index] = flat[index]
    end
  end
  local past = run.base + 2
  local goes_on = flat[length] - past >= 0 -- into the next run
  for index = 1, length, 2 do
    if goes_on and flat[index + 1] - past >= 0 then
      run.whole, run.next_used = true, read_ready(look.class, flat[index + 1])
      break
    end
    known = known + 1
    ids[known] = flat[index]
  end
end

local function load_of(run, place)
  return run.flat[place * 2] - run.base
end

-- The first run of a class with at least so many slots reserved, or false.
local function run_from(look, used)
  if look.left <= 0 or nodes_left <= 0 then
    return false
  end
  local low = look.class * CLASS_SPAN + used * 2
  local run = { low = low, step = FIRST_STEP, ids = {}, passed = {}, first = 1, checked = 0, dead = 0 }
  read_on(look, run)
  return run.used and run
end

local function run_after(look, run)
  if run.following == nil then
    local used = run.next_used or (not run.whole and run.used + 1)
    run.following = used and run_from(look, used)
  end
  return run.following
end

local function look_of(class, capacity)
  local look = looks[class]
  if not look then
    local _, high = ready_range(class, capacity - 1)
    look = { class = class, capacity = capacity, high = high, left = MAX_LOOKED_CLASS, touched = NO_NODES }
    look.run = run_from(look, 0)
    looks[class] = look
  end
  return look
end

local function is_alive(lease_end, now)
  return (lease_end or 0) - now > 0
end

-- Asks of the nodes of a run that were read whether they live.
local function check_leases(run, now)
  local ends = redis.call('ZMSCORE', LEASES, unpack(run.ids, run.checked + 1))
  for index = 1, #ends do
    if not is_alive(ends[index], now) then
      run.passed[run.checked + index], run.dead = true, run.dead + 1
    end
  end
  run.checked = #run.ids
end

-- The place of a run's first node that can take the job, for all that is known of it. Nodes that this call took slots of are put aside.
-- Where so many are dead the living ones have more slots reserved, most likely.
local function first_able(look, run, job, now, patience)
  local place = run.first
  while true do
    local node_id = run.ids[place]
    if not node_id then
      if run.whole or run.dead >= patience or look.left <= 0 or nodes_left <= 0 then
        return nil
      end
      read_on(look, run)
    else
      if used_now[node_id] and not run.passed[place] then
        if place > run.checked then
          check_leases(run, now)
        end
        if not run.passed[place] then
          run.passed[place] = true
          if look.touched == NO_NODES then
            look.touched = {}
          end
          look.touched[#look.touched + 1] = { id = node_id, load = load_of(run, place) }
        end
      end
      if not run.passed[place] then
        if not job.excluded[node_id] then
          return place
        end
      elseif place == run.first then
        run.first = place + 1
      end
      place = place + 1
    end
  end
end

local function is_better(weight, used, best)
  return not best or weight < best.weight or (weight == best.weight and used < best.used)
end

-- The better of the best so far and the best of a class. Nodes with more slots reserved are less loaded only where those with fewer are
-- busy with something else.
local function best_of_class(look, job, now, best, patience)
  local run, capacity, most = look.run, look.capacity, look.capacity - job.slots
  local used = run and run.used
  while run and used <= most and (not best or used / capacity < best.weight) do
    local place = first_able(look, run, job, now, patience)
    local load = place and load_of(run, place)
    local weight = place and max(load, used / capacity)
    if place and is_better(weight, used, best) then
      best = {
        id = run.ids[place], class = look.class, load = load, weight = weight, used = used,
        run = place > run.checked and run, place = place,
      }
    end
    used = run.next_used or used + 1
    run = used <= most and (not best or used / capacity < best.weight) and run_after(look, run)
    used = run and run.used
  end
  for index = 1, #look.touched do
    local node = look.touched[index]
    used = used_now[node.id]
    if used <= most and is_better(used / capacity, used, best) and not job.excluded[node.id] then
      local weight = max(node.load, used / capacity)
      if is_better(weight, used, best) then
        best = { id = node.id, class = look.class, load = node.load, weight = weight, used = used }
      end
    end
  end
  return best
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

-- The least loaded node of some classes, or nil. Leases are asked for when a node is about to be chosen: nearly all nodes live.
local function least_loaded(classes, capacity, job, now, patience)
  local first = #classes > MAX_COMPARED and of_chance('chance')(job, #classes, ' class') or 0
  while true do
    local best, compared = nil, 0
    for index = 0, #classes - 1 do
      best = best_of_class(look_of(classes[(first + index) % #classes + 1], capacity), job, now, best, patience)
      compared = compared + (best and 1 or 0)
      if compared == MAX_COMPARED then
        break
      end
    end
    if not best or not best.run then
      return best
    end
    check_leases(best.run, now)
    if not best.run.passed[best.place] then
      return best
    end
  end
end

-- The node of a pool that the job gets, or nil.
local function node_of_pool(pool, job, now)
  local classes, capacity, strategy = classes_of(pool), pool.capacity, pool.strategy
  if job.slots > capacity then
    return nil
  end
  if strategy == 'a' and job.session ~= '' then
    local node_id = affinity_of(job.session)
    local former = node_id and of_chance('former_node')(node_id, classes, job, capacity, now)
    if former then
      return former
    end
  end
  if (strategy == 'r' or strategy == 'p') and #classes <= MAX_COMPARED then
    local any_of = of_chance('any_of')
    local one = any_of(classes, job, capacity, now, ' first')
    local other = one and strategy == 'p' and any_of(classes, job, capacity, now, ' second')
    if one then
      return other and other.weight < one.weight and other or one
    end
  end
  return least_loaded(classes, capacity, job, now, PATIENCE) or least_loaded(classes, capacity, job, now, math.huge)
    or of_chance('from_leases')(classes, job, capacity, now)
end

-- The first node of the route's pools, with its pool; or nil. A tenant's own pool comes first.
local function choose(route, job, rule, now)
  local own
  if rule.pool ~= '' then
    for pool in pools_of(route) do
      own = pool.name == rule.pool and pool or own
    end
  end
  local node = own and not job.excluded_pools[own.name] and node_of_pool(own, job, now)
  if node then
    return node, own
  elseif rule.strict then
    return nil
  end
  for pool in pools_of(route) do
    node = pool ~= own and not job.excluded_pools[pool.name] and node_of_pool(pool, job, now)
    if node then
      return node, pool
    end
  end
  return nil
end
