-- The one matcher: writers place classes with it, readers explain with it.

local LANGUAGE_LISTS = { 'semantic', 'asr', 'tts' }
local NOTHING = {}

-- Whether a rule has the form that the rest of this file takes for granted.
local function is_rule(match)
  if type(match) ~= 'table' then
    return false
  end
  for _, name in ipairs(LANGUAGE_LISTS) do
    local constraint = match[name] or {}
    if type(constraint) ~= 'table' then
      return false
    end
    for _, codes in pairs(constraint) do
      if not is_string_list(codes) then
        return false
      end
    end
  end
  local gpu = match.gpu or {}
  if type(gpu) ~= 'table' then
    return false
  end
  for _, number in pairs(gpu) do
    if type(number) ~= 'number' then
      return false
    end
  end
  return is_string_list(match.services or {}) and is_string_list(match.labels or {})
end

-- How a rule's language constraint fails, or nil.
local function language_failure(rule, has)
  if rule.exact then
    if #rule.exact ~= #has.list then
      return 'exact'
    end
    for _, code in ipairs(rule.exact) do
      if not has.set[code] then
        return 'exact'
      end
    end
  end
  if rule.contains then
    for _, code in ipairs(rule.contains) do
      if not has.set[code] then
        return 'contains'
      end
    end
  end
  if rule.any then
    for _, code in ipairs(rule.any) do
      if has.set[code] then
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
    local mode = match[name] and language_failure(match[name], facts[name])
    if mode then
      if not failed then
        return false
      end
      failed[#failed + 1] = name .. '.' .. mode
    end
  end
  local services = match.services or NOTHING
  for index = 1, #services do
    if not facts.services.set[services[index]] then
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

-- How many constraints a rule has: the more, the more specific.
local function specificity(match)
  local count = 0
  for _, name in ipairs(LANGUAGE_LISTS) do
    for _ in pairs(match[name] or {}) do
      count = count + 1
    end
  end
  count = count + #(match.services or {})
  for _ in pairs(match.gpu or {}) do
    count = count + 1
  end
  for _ in pairs(match.labels or {}) do
    count = count + 1
  end
  return count
end

-- Services that the auto policy requires and the facts lack.
local function missing_services(auto, facts)
  local missing = {}
  for _, service in ipairs(auto.require_services or {}) do
    if not facts.services.set[service] then
      missing[#missing + 1] = service
    end
  end
  return missing
end

-- The first pool of a list in match order whose rule the facts meet, if it comes before `best`; else `best`.
local function first_match(pools, facts, best)
  for index = 1, #pools do
    local pool = pools[index]
    if best and pool.rank > best.rank then
      return best
    end
    if meets(pool.match, facts) then
      return pool
    end
  end
  return best
end

-- What a class must have to meet a rule, as keys such as 'asr:en': all of `needed`, and one of `any` if that is not empty.
local function demands(match)
  local needed, any = {}, {}
  for _, name in ipairs(LANGUAGE_LISTS) do
    local constraint = match[name] or NOTHING
    for _, code in ipairs(constraint.exact or constraint.contains or NOTHING) do
      needed[#needed + 1] = name .. ':' .. code
    end
    if constraint.any and #any == 0 then
      for _, code in ipairs(constraint.any) do
        any[#any + 1] = name .. ':' .. code
      end
    end
  end
  for _, service in ipairs(match.services or NOTHING) do
    needed[#needed + 1] = 'services:' .. service
  end
  for label, value in pairs(match.labels or NOTHING) do
    needed[#needed + 1] = 'labels:' .. label .. '=' .. value
  end
  return needed, any
end

-- Puts each declared pool under the rarest key that its rule demands, so that a class is held against the pools that it may meet and
-- not against all: who places every class must not take classes * pools. A list keeps the match order.
local function index_rules(view)
  local uses, demanded = {}, {}
  for index, pool in ipairs(view.declared) do
    local needed, any = demands(pool.match)
    demanded[index] = { needed = needed, any = any }
    for _, key in ipairs(needed) do
      uses[key] = (uses[key] or 0) + 1
    end
  end
  view.by_key, view.by_no_key = {}, {}
  for index, pool in ipairs(view.declared) do
    local rarest
    for _, key in ipairs(demanded[index].needed) do
      if not rarest or uses[key] < uses[rarest] then
        rarest = key
      end
    end
    local keys = rarest and { rarest } or demanded[index].any
    for _, key in ipairs(keys) do
      view.by_key[key] = view.by_key[key] or {}
      table.insert(view.by_key[key], pool)
    end
    if #keys == 0 then
      table.insert(view.by_no_key, pool)
    end
  end
end

-- The first declared pool, in match order, whose rule the facts meet, or nil.
local function declared_pool(view, facts)
  if not view.by_key then
    return first_match(view.declared, facts, nil)
  end
  local best = first_match(view.by_no_key, facts, nil)
  for _, name in ipairs(FACT_LISTS) do
    for _, item in ipairs(facts[name].list) do
      local pools = view.by_key[name .. ':' .. item]
      best = pools and first_match(pools, facts, best) or best
    end
  end
  for label, value in pairs(facts.labels) do
    local pools = view.by_key['labels:' .. label .. '=' .. value]
    best = pools and first_match(pools, facts, best) or best
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

-- The pool of a class under every pool there is: its name and 'matched', or nil and the reason.
local function place(view, facts, set_name)
  local declared = declared_pool(view, facts)
  if declared then
    return declared.name, 'matched'
  end
  local namesake = view.pools[set_name]
  return auto_pool(view.auto, facts, set_name, namesake and namesake.origin)
end
