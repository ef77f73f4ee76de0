-- Where chance or a memory decides, or all that was looked at is dead: what most calls do not need. Each returns a node as selecting.lua
-- has it, {id, class, load, weight, used}, or nil.
-- Uses: READY, LEASES, and selecting.lua.

-- A number by chance, below `bound`: the job's own, so that the same call gives the same.
local function chance(job, bound, salt)
  return tonumber(string.sub(redis.sha1hex(job.job_id .. ' ' .. digits(job.attempt) .. salt), 1, 8), 16) % bound
end

-- A node of a class by its score, if it can take the job.
local function able(node_id, class, score, job, capacity)
  local used, load = read_ready(class, score)
  used = used_now[node_id] or used
  if used + job.slots > capacity or job.excluded[node_id] then
    return nil
  end
  return { id = node_id, class = class, load = load, weight = math.max(load, used / capacity), used = used }
end

local sample

-- Some of the leases that have not ended: a list of {node_id, score}, of whatever class.
local function living_nodes(job, now)
  if not sample then
    sample = {}
    local lapsed = redis.call('ZCOUNT', LEASES, '-inf', digits(now))
    local alive = redis.call('ZCARD', LEASES) - 1 - lapsed
    local first = lapsed + chance(job, math.max(alive - 63, 1), ' leases')
    local ids = alive > 0 and redis.call('ZRANGE', LEASES, first, first + 63) or {}
    for index, score in ipairs(#ids > 0 and redis.call('ZMSCORE', READY, unpack(ids)) or {}) do
      sample[index] = { ids[index], tonumber(score or -1) }
    end
  end
  return sample
end

-- Where so many dead nodes come first that no more are looked at: the best of some that surely live.
local function from_leases(classes, job, capacity, now)
  local best
  for _, class in ipairs(classes) do
    if look_of(class, capacity).left <= 0 or nodes_left <= 0 then
      for _, entry in ipairs(living_nodes(job, now)) do
        local node = math.floor(entry[2] / CLASS_SPAN) == class and able(entry[1], class, entry[2], job, capacity)
        if node and is_better(node.weight, node.used, best) then
          best = node
        end
      end
    end
  end
  return best
end

-- One of the nodes of some classes that have the slots free, each as likely as any other. Those who can't take it give way to their next.
local function any_of(classes, job, capacity, now, salt)
  local counts, total = {}, 0
  for index, class in ipairs(classes) do
    counts[index] = redis.call('ZCOUNT', READY, ready_range(class, capacity - job.slots))
    total = total + counts[index]
  end
  local place = total > 0 and chance(job, total, salt) or 0
  for index, class in ipairs(classes) do
    if place < counts[index] then
      local first = redis.call('ZCOUNT', READY, '-inf', '(' .. digits(class * CLASS_SPAN))
      local flat = redis.call('ZRANGE', READY, first + place, first + math.min(place + 7, counts[index] - 1), 'WITHSCORES')
      local ids = {}
      for at = 1, #flat, 2 do
        ids[#ids + 1] = flat[at]
      end
      for at, lease_end in ipairs(redis.call('ZMSCORE', LEASES, unpack(ids))) do
        local node = is_alive(lease_end, now) and able(ids[at], class, flat[at * 2], job, capacity)
        if node then
          return node
        end
      end
      return nil
    end
    place = place - counts[index]
  end
  return nil
end

-- The node that a session had, if one of these classes has it and it can take the job.
local function former_node(node_id, classes, job, capacity, now)
  local score = tonumber(redis.call('ZSCORE', READY, node_id) or nil)
  if score and is_alive(redis.call('ZSCORE', LEASES, node_id), now) then
    for _, class in ipairs(classes) do
      if score >= class * CLASS_SPAN and score < (class + 1) * CLASS_SPAN then
        return able(node_id, class, score, job, capacity)
      end
    end
  end
  return nil
end

local BY_CHANCE = { chance = chance, from_leases = from_leases, any_of = any_of, former_node = former_node }
