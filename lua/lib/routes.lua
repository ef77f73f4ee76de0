-- Level one: the pools that can serve a kind of request, in the order in which they are tried, with their classes. A route is remembered
-- under the configuration and the set of classes that it was made of, so that it is never stale: one of others is made anew.
-- As text: `tag|capabilities that no class has|reason:classes;...|pool:capacity:strategy:classes;...`
-- It has more than 64 bytes: a hash whose values are all shorter is kept as a list, and searched from its beginning.
-- What only making one takes is included where it is made: most calls find theirs.
-- Uses: CLASSES, CLASS_FACTS, POOLS, CAPABILITIES.

local STRATEGY_LETTERS = { least_loaded = 'l', power_of_two = 'p', random = 'r', affinity = 'a' }

local function route_tag(config)
  return config.version .. ':' .. config.next_class .. ':' .. redis.call('HLEN', CLASSES)
end

local function read_route(stored, tag)
  local found, missing, rejected, rest = string.match(stored or '', '^([^|]*)|([^|]*)|([^|]*)|()')
  if found ~= tag then
    return nil
  end
  return { text = stored, missing = missing, rejected = rejected, pools = {}, rest = rest }
end

local function next_pool(route, pool)
  local index = pool and pool.index + 1 or 1
  if not route.pools[index] then
    local name, capacity, strategy, classes, rest = string.match(route.text, '^([^:;]+):(%d+):(%a):([%d,]+);?()', route.rest)
    if not name then
      return nil
    end
    route.pools[index] = { index = index, name = name, capacity = capacity + 0, strategy = strategy, listed = classes }
    route.rest = rest
  end
  return route.pools[index]
end

-- The pools of a route, for a loop. Each is parsed when it is first come to: most jobs need one.
local function pools_of(route)
  return next_pool, route
end

-- The classes of a pool of a route.
local function classes_of(pool)
  if not pool.classes then
    pool.classes = { tonumber(pool.listed) } -- most have one
    if not pool.classes[1] then
      for class in string.gmatch(pool.listed, '%d+') do
        pool.classes[#pool.classes + 1] = tonumber(class)
      end
    end
  end
  return pool.classes
end

local function make_route(src, tgt, services_listed, labels_asked, scope_asked, is_public, config, tag)
--@include lib/facts.lua
--@include lib/capabilities.lua
--@include lib/matcher.lua
  local policy = cjson.decode(config.selection)
  local scope = scope_asked ~= '' and scope_asked or policy.scope
  local pair = src == tgt and { src } or { src, tgt }
  table.sort(pair)
  local exact_name = language_set_name({ semantic = pair, tts = {}, asr = {} })
  local labels = labels_asked ~= '' and cjson.decode(labels_asked) or {}
  local classes, missing = classes_with_all(wanted_capabilities(src, tgt, split(services_listed, '[^,]+')))
  local pools, by_name, rejected = {}, {}, { labels = {}, not_public = {}, scope = {}, no_pool = {} }

  local function why_not(facts, is_exact, name)
    for label, value in pairs(labels) do
      if facts.labels[label] ~= value then
        return 'labels'
      end
    end
    return is_public and facts.private and 'not_public' or scope == 'exact' and not is_exact and 'scope' or name == '' and 'no_pool'
  end

  for _, class in ipairs(classes) do
    local facts = stored_facts(redis.call('HGET', CLASS_FACTS, class) or '{}') or stored_facts('{}')
    local is_exact, name = language_set_name(facts) == exact_name, redis.call('HGET', CLASSES, class) or ''
    local reason = why_not(facts, is_exact, name)
    if reason then
      table.insert(rejected[reason], digits(class))
    else
      local pool = by_name[name]
      if not pool then
        local stored = decode_pool(name, redis.call('HGET', POOLS, name) or '') or {}
        local own = stored.selection or {}
        pool = {
          name = name, classes = {}, origin = stored.origin, rank = stored.rank or 0, languages = math.huge,
          capacity = own.slots_per_node or policy.slots_per_node, strategy = STRATEGY_LETTERS[own.strategy or policy.strategy],
        }
        by_name[name], pools[#pools + 1] = pool, pool
      end
      pool.exact = pool.exact or is_exact
      pool.languages = math.min(pool.languages, #languages_of(facts))
      table.insert(pool.classes, digits(class))
    end
  end
  table.sort(pools, function(left, right)
    if left.exact ~= right.exact then
      return left.exact
    elseif left.origin ~= right.origin then
      return left.origin == 'declared'
    elseif left.rank ~= right.rank then
      return left.rank < right.rank
    elseif left.languages ~= right.languages then
      return left.languages < right.languages
    end
    return left.name < right.name
  end)
  local parts, refused = {}, {}
  for index, pool in ipairs(pools) do
    parts[index] = pool.name .. ':' .. digits(pool.capacity) .. ':' .. pool.strategy .. ':' .. table.concat(pool.classes, ',')
  end
  for reason, those in pairs(rejected) do
    if #those > 0 then
      refused[#refused + 1] = reason .. ':' .. table.concat(those, ',')
    end
  end
  table.sort(refused)
  local text = tag .. '|' .. table.concat(missing, ' ') .. '|' .. table.concat(refused, ';') .. '|' .. table.concat(parts, ';')
  return read_route(string.format('%-65s', text), tag)
end
