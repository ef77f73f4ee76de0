-- How nodes are selected: the document's section for all pools, a pool's own, and the rules of tenants.

local STRATEGIES = { least_loaded = true, power_of_two = true, random = true, affinity = true }
local SCOPES = { eligible = true, exact = true }
local FATES = { keep = true, lose = true }

local function is_count(value, low, high)
  return type(value) == 'number' and value >= low and value <= high and value == math.floor(value)
end

local function is_selection(value)
  return type(value) == 'table' and is_count(value.slots_per_node, 1, MAX_NODE_SLOTS) and STRATEGIES[value.strategy]
    and SCOPES[value.scope] and FATES[value.on_new_epoch] and FATES[value.on_drain] and is_count(value.tenant_slots, 0, 1000000)
end

-- Of a pool: each member may be left out, and then is as for all pools.
local function is_pool_selection(value)
  return value == nil or (type(value) == 'table' and is_count(value.slots_per_node or 1, 1, MAX_NODE_SLOTS)
    and STRATEGIES[value.strategy or 'random'])
end

local function is_tenant(value)
  return type(value) == 'table' and type(value.name) == 'string' and is_id(value.name, 64)
    and (value.pool == nil or type(value.pool) == 'string') and type(value.strict) == 'boolean'
    and is_count(value.slots or 0, 0, 1000000)
end

-- A tenant's rule as stored: `slots strict pool`. Slots of 0 are no bound; a strict one gets nodes of its pool alone.
local function join_tenant_rule(slots, strict, pool)
  return digits(slots) .. ' ' .. (strict and '1' or '0') .. ' ' .. pool
end
