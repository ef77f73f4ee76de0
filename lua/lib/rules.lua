-- All rules at once, for who checks them, or places every class under them.
--@include lib/matcher.lua

-- Whether a rule has the form that the rest of this file takes for granted.
local function is_rule(match)
  if type(match) ~= 'table' then
    return false
  end
  for index = 1, #LANGUAGE_LISTS do
    local constraint = match[LANGUAGE_LISTS[index]]
    if constraint then
      if type(constraint) ~= 'table' then
        return false
      end
      for _, codes in pairs(constraint) do
        if not is_string_list(codes) then
          return false
        end
      end
    end
  end
  local gpu = match.gpu or NOTHING
  if type(gpu) ~= 'table' then
    return false
  end
  for _, number in pairs(gpu) do
    if type(number) ~= 'number' then
      return false
    end
  end
  return (not match.services or is_string_list(match.services)) and (not match.labels or is_string_list(match.labels))
end

local COUNTED = { 'semantic', 'asr', 'tts', 'gpu', 'labels' }

-- How many constraints a rule has: the more, the more specific.
local function specificity(match)
  local count = #(match.services or NOTHING)
  for index = 1, #COUNTED do
    local constraints = match[COUNTED[index]]
    if constraints then
      for _ in pairs(constraints) do
        count = count + 1
      end
    end
  end
  return count
end

local function by_rank(left, right)
  return left.rank < right.rank
end

-- Decodes every pool of read_pools(): {pools = name -> pool, declared = list by rank, damaged = names} besides.
local function decode_pools(view)
  view.pools, view.declared, view.damaged = {}, {}, {}
  for name, stored in pairs(view.stored) do
    local pool = decode_pool(name, stored)
    view.pools[name] = pool
    if not pool then
      view.damaged[#view.damaged + 1] = name
    elseif pool.origin == 'declared' then
      view.declared[#view.declared + 1] = pool
    end
  end
  table.sort(view.declared, by_rank)
  return view
end

-- The first pool of a list in match order whose rule the facts meet, if it comes before `best`; else `best`.
local function first_match(pools, facts, best)
  for index = 1, #pools do
    local pool = pools[index]
    if best and pool.rank > best.rank then
      return best
    end
    if pool.is_simple or meets(pool.match, facts) then
      return pool
    end
  end
  return best
end

-- What a class must have to meet a rule, as pairs such as {'asr', 'en'}: all of `needed`, and one of `any` if that is not empty; and
-- whether that may not be all that the rule asks for.
local function demands(match)
  local needed, any, is_more = {}, {}, match.gpu
  for index = 1, #LANGUAGE_LISTS do
    local name = LANGUAGE_LISTS[index]
    local constraint = match[name]
    if constraint then
      for _, code in ipairs(constraint.exact or constraint.contains or NOTHING) do
        needed[#needed + 1] = { name, code }
      end
      if constraint.any and #any == 0 then
        for _, code in ipairs(constraint.any) do
          any[#any + 1] = { name, code }
        end
      end
      is_more = is_more or constraint.exact or constraint.any
    end
  end
  for _, service in ipairs(match.services or NOTHING) do
    needed[#needed + 1] = { 'services', service }
  end
  for label, value in pairs(match.labels or NOTHING) do
    needed[#needed + 1], is_more = { 'labels', label .. '=' .. value }, true
  end
  return needed, any, is_more
end

-- A demand as a pool says it in what is stored; nil if JSON would spell it otherwise.
local function spelled(demand)
  return not string.find(demand[2], '[%c"\\/\127]') and demand[1] .. ':' .. demand[2] or nil
end

-- Whether a pool's rule demands what the pool says that it needs.
local function demands_it(pool)
  for _, demand in ipairs((demands(pool.match))) do
    if spelled(demand) == pool.needs then
      return true
    end
  end
  return false
end

-- Puts each declared pool under the rarest thing that its rule demands, so that a class is held against the pools that it may meet and
-- not against all: who places every class must not take classes * pools. A list keeps the match order. The pool keeps it, too, for
-- who has a single class to place.
local function index_rules(view)
  local index = { semantic = {}, asr = {}, tts = {}, services = {}, labels = {} }
  local uses, all, one_of = { semantic = {}, asr = {}, tts = {}, services = {}, labels = {} }, {}, {}
  for rank, pool in ipairs(view.declared) do
    local needed, any, is_more = demands(pool.match)
    all[rank], one_of[rank], pool.is_simple = needed, any, #needed == 1 and not is_more
    for _, demand in ipairs(needed) do
      local of_kind = uses[demand[1]]
      of_kind[demand[2]] = (of_kind[demand[2]] or 0) + 1
    end
  end
  view.index, view.kinds, view.undemanding = index, {}, {}
  for rank, pool in ipairs(view.declared) do
    local rarest, fewest
    for _, demand in ipairs(all[rank]) do
      local count = uses[demand[1]][demand[2]]
      if not fewest or count < fewest then
        rarest, fewest = demand, count
      end
    end
    pool.needs = rarest and spelled(rarest)
    local places = rarest and { rarest } or one_of[rank]
    for _, demand in ipairs(places) do
      local of_kind = index[demand[1]]
      local pools = of_kind[demand[2]] or {}
      of_kind[demand[2]] = pools
      pools[#pools + 1] = pool
    end
    if #places == 0 then
      table.insert(view.undemanding, pool)
    end
  end
  for _, name in ipairs(FACT_LISTS) do
    view.kinds[#view.kinds + 1] = next(index[name]) and name
  end
  view.by_label = next(index.labels) and index.labels
end

-- The same as declared_pool(), by the index.
local function indexed_pool(view, facts)
  local index, kinds = view.index, view.kinds
  local best = first_match(view.undemanding, facts, nil)
  for kind = 1, #kinds do
    local name = kinds[kind]
    local of_kind, list = index[name], facts[name]
    for place = 1, #list do
      local pools = of_kind[list[place]]
      best = pools and first_match(pools, facts, best) or best
    end
  end
  for label, value in pairs(view.by_label and facts.labels or NOTHING) do
    local pools = view.by_label[label .. '=' .. value]
    best = pools and first_match(pools, facts, best) or best
  end
  return best
end

-- The same as place(), by the index; and the name of the language set, if it mattered.
local function place_by_index(view, facts)
  local declared = indexed_pool(view, facts)
  if declared then
    return declared.name, 'matched'
  end
  local set_name = language_set_name(facts)
  local namesake = view.pools[set_name]
  local name, reason = auto_pool(view.auto, facts, set_name, namesake and namesake.origin)
  return name, reason, set_name
end
