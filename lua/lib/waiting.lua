-- Waiting classes: those that lack nothing but an auto pool of their language set's name. The capability index says which they are,
-- so that no facts have to be read for it.
-- Uses: MEMBERS, CAPABILITIES, CLASSES.

local function class_nodes(class)
  return redis.call('ZCOUNT', MEMBERS, class, class)
end

-- Why an auto pool for that many waiting nodes may not be made, or nil if it may. `autos` is the number of auto pools.
local function denial(auto, nodes, autos)
  if not auto.enabled then
    return 'auto_disabled'
  end
  if autos >= auto.max_pools then
    return 'max_pools'
  end
  if nodes < math.max(auto.min_nodes, 1) then
    return 'below_min_nodes'
  end
  return nil
end

local function has_required_services(auto, class)
  for _, service in ipairs(auto.require_services) do
    if not redis.call('ZSCORE', CAPABILITIES, 'service:' .. service .. ':' .. digits(class)) then
      return false
    end
  end
  return true
end

-- Other classes that wait for the pool `set_name`, as a list of {class, nodes}.
local function classes_waiting_for(auto, set_name, except)
  local waiting = {}
  for _, class in ipairs(classes_with('set:' .. set_name)) do
    if class ~= except and redis.call('HGET', CLASSES, class) == '' and has_required_services(auto, class) then
      waiting[#waiting + 1] = { class = class, nodes = class_nodes(class) }
    end
  end
  return waiting
end

local function larger_group(left, right)
  if left.nodes ~= right.nodes then
    return left.nodes > right.nodes
  end
  return left.name < right.name
end

-- Groups of waiting classes that may have their auto pool now, largest first, as far as the policy allows.
-- `waiting` is a list of {class, name, languages, nodes}; a group is {name, languages, nodes, classes}.
local function grant_auto_pools(auto, waiting, autos)
  local by_name, groups, granted = {}, {}, {}
  for _, entry in ipairs(waiting) do
    local group = by_name[entry.name]
    if not group then
      group = { name = entry.name, languages = entry.languages, nodes = 0, classes = {} }
      by_name[entry.name] = group
      groups[#groups + 1] = group
    end
    group.nodes = group.nodes + entry.nodes
    group.classes[#group.classes + 1] = entry
  end
  table.sort(groups, larger_group)
  for _, group in ipairs(groups) do
    if not denial(auto, group.nodes, autos + #granted) then
      granted[#granted + 1] = group
    end
  end
  return granted
end
