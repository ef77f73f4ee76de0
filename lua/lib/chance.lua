-- Where chance or a memory decides: what most calls do not need. Uses: READY, LEASES, and selecting.lua.

-- A number by chance, below `bound`: the job's own, so that the same call gives the same.
local function chance(job, bound, salt)
  return tonumber(string.sub(redis.sha1hex(job.job_id .. ' ' .. digits(job.attempt) .. salt), 1, 8), 16) % bound
end

-- Nodes of the class that are surely alive, where the first ones by load are all dead: those of a part of the leases that have not ended.
local function from_leases(class, job, now)
  local lapsed = redis.call('ZCOUNT', LEASES, '-inf', digits(now))
  local alive, found = redis.call('ZCARD', LEASES) - 1 - lapsed, {}
  if alive > 0 then
    local first = lapsed + chance(job, math.max(alive - 63, 1), ' leases')
    local ids = redis.call('ZRANGE', LEASES, first, first + 63)
    for index, score in ipairs(redis.call('ZMSCORE', READY, unpack(ids))) do
      if score and tonumber(score) >= class * CLASS_SPAN and tonumber(score) < (class + 1) * CLASS_SPAN then
        local used, load = read_ready(class, score)
        found[#found + 1] = { id = ids[index], used = used, load = load, stored = 0 }
      end
    end
  end
  return found
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
      for _, node in ipairs(living(class, flat, now, {})) do
        if can_take(node, job, capacity) then
          return { node = node, weight = load_of(node, capacity) }
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
  if score and tonumber(redis.call('ZSCORE', LEASES, node_id) or 0) > now then
    for _, class in ipairs(classes) do
      if score >= class * CLASS_SPAN and score < (class + 1) * CLASS_SPAN then
        local used, load = read_ready(class, score)
        local node = { id = node_id, used = used, load = load }
        return can_take(node, job, capacity) and { node = node, weight = 0 } or nil
      end
    end
  end
  return nil
end

local BY_CHANCE = { chance = chance, from_leases = from_leases, any_of = any_of, former_node = former_node }
