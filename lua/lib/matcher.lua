-- The one matcher: writers place classes with it, readers explain with it.

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

-- Names of the constraints of a rule that the facts do not meet. With `first_only` it stops at the first.
local function failed_constraints(match, facts, first_only)
  local failed = {}
  for _, name in ipairs({ 'semantic', 'asr', 'tts' }) do
    if match[name] then
      local mode = language_failure(match[name], facts[name])
      if mode then
        failed[#failed + 1] = name .. '.' .. mode
        if first_only then
          return failed
        end
      end
    end
  end
  for _, service in ipairs(match.services or {}) do
    if not facts.services.set[service] then
      failed[#failed + 1] = 'services.' .. service
      if first_only then
        return failed
      end
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
      failed[#failed + 1] = #facts.gpu_memory_gb < wanted and 'gpu.min_count' or 'gpu.min_memory_gb'
      if first_only then
        return failed
      end
    end
  end
  for label, value in pairs(match.labels or {}) do
    if facts.labels[label] ~= value then
      failed[#failed + 1] = 'labels.' .. label
      if first_only then
        return failed
      end
    end
  end
  return failed
end

-- How many constraints a rule has: the more, the more specific.
local function specificity(match)
  local count = 0
  for _, name in ipairs({ 'semantic', 'asr', 'tts' }) do
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

-- The first declared pool, in match order, whose rule the facts meet, or nil.
local function declared_pool(declared, facts)
  for _, pool in ipairs(declared) do
    if #failed_constraints(pool.match, facts, true) == 0 then
      return pool.name
    end
  end
  return nil
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
  local name = declared_pool(view.declared, facts)
  if name then
    return name, 'matched'
  end
  local namesake = view.pools[set_name]
  return auto_pool(view.auto, facts, set_name, namesake and namesake.origin)
end
