-- The one matcher: writers place classes with it, readers explain with it.
--@include lib/pools.lua

local LANGUAGE_LISTS = { 'semantic', 'asr', 'tts' }
local NOTHING = {}

-- How a rule's language constraint fails, or nil.
local function language_failure(rule, facts, name)
  local set = set_of(facts, name)
  if rule.exact then
    if #rule.exact ~= #facts[name] then
      return 'exact'
    end
    for _, code in ipairs(rule.exact) do
      if not set[code] then
        return 'exact'
      end
    end
  end
  if rule.contains then
    for _, code in ipairs(rule.contains) do
      if not set[code] then
        return 'contains'
      end
    end
  end
  if rule.any then
    for _, code in ipairs(rule.any) do
      if set[code] then
        return nil
      end
    end
    return 'any'
  end
  return nil
end

-- Whether the facts meet a rule. Given a list, it names every constraint there that is not met; without one it ends at the first.
local function meets(match, facts, failed)
  for index = 1, #LANGUAGE_LISTS do
    local name = LANGUAGE_LISTS[index]
    local mode = match[name] and language_failure(match[name], facts, name)
    if mode then
      if not failed then
        return false
      end
      failed[#failed + 1] = name .. '.' .. mode
    end
  end
  local services = match.services or NOTHING
  for index = 1, #services do
    if not set_of(facts, 'services')[services[index]] then
      if not failed then
        return false
      end
      failed[#failed + 1] = 'services.' .. services[index]
    end
  end
  if match.gpu then
    local wanted, memory, fitting = match.gpu.min_count or 1, match.gpu.min_memory_gb or 0, 0
    for _, has in ipairs(facts.gpu_memory_gb) do
      if has >= memory then
        fitting = fitting + 1
      end
    end
    if fitting < wanted then
      if not failed then
        return false
      end
      failed[#failed + 1] = #facts.gpu_memory_gb < wanted and 'gpu.min_count' or 'gpu.min_memory_gb'
    end
  end
  local labels = failed and {}
  for label, value in pairs(match.labels or NOTHING) do
    if facts.labels[label] ~= value then
      if not failed then
        return false
      end
      labels[#labels + 1] = 'labels.' .. label
    end
  end
  if not failed then
    return true
  end
  table.sort(labels) -- a table has no order of its own
  for _, label in ipairs(labels) do
    failed[#failed + 1] = label
  end
  return #failed == 0
end

-- Services that the auto policy requires and the facts lack.
local function missing_services(auto, facts)
  local missing = {}
  for _, service in ipairs(auto.require_services or {}) do
    if not set_of(facts, 'services')[service] then
      missing[#missing + 1] = service
    end
  end
  return missing
end

-- The first declared pool, in match order, whose rule the facts meet, or nil. Of the pools as stored only those are decoded whose need
-- the facts meet.
local function declared_pool(view, facts)
  local has, best = {}, nil
  for _, name in ipairs(FACT_LISTS) do
    for _, item in ipairs(facts[name]) do
      has[name .. ':' .. item] = true
    end
  end
  for label, value in pairs(facts.labels) do
    has['labels:' .. label .. '=' .. value] = true
  end
  for name, stored in pairs(view.stored) do
    local needs = view.needs[name]
    if has[needs or ''] or (not needs and pool_origin(stored) == 'declared') then
      local pool = decode_pool(name, stored)
      if pool and not (best and best.rank < pool.rank) and meets(pool.match, facts) then
        best = pool
      end
    end
  end
  return best
end

-- The auto pool of a class that no declared pool takes. `namesake` is the origin of the pool called `set_name`, if there is one.
-- Returns the pool's name and 'matched', or nil and the reason; 'no_pool' says that only the pool itself is missing.
local function auto_pool(auto, facts, set_name, namesake)
  if set_name == '' then
    return nil, 'no_languages'
  end
  if namesake == 'declared' then
    return nil, 'name_taken'
  end
  if #missing_services(auto, facts) > 0 then
    return nil, 'services_missing'
  end
  if namesake then
    return set_name, 'matched'
  end
  return nil, 'no_pool'
end

-- The pool of a class under the pools as stored: its name and 'matched', or nil and the reason.
local function place(view, facts, set_name)
  local declared = declared_pool(view, facts)
  if declared then
    return declared.name, 'matched'
  end
  return auto_pool(view.auto, facts, set_name, pool_origin(view.stored[set_name]))
end
