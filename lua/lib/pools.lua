-- Pools as stored: JSON that begins with the pool's number and origin, and with what a class must have to be taken by it, so that
-- these are read without decoding the rest.

local function encode_pool(pool)
  local rest = {
    priority = pool.priority,
    rank = pool.rank,
    match = pool.match,
    selection = pool.selection,
    created_at = pool.created_at,
    idle_since = pool.idle_since,
  }
  local needs = pool.needs and '"needs":"' .. pool.needs .. '",' or ''
  return '{"id":' .. digits(pool.id) .. ',"origin":"' .. pool.origin .. '",' .. needs .. string.sub(cjson.encode(rest), 2)
end

local function pool_number(stored)
  return tonumber(string.match(stored or '', '^{"id":(%d+),')) or 0
end

-- 'declared' or 'auto'; nil for no pool.
local function pool_origin(stored)
  return string.match(stored or '', '^{"id":%d+,"origin":"(%l+)"')
end

-- What a declared pool needs, or nil if it does not say so.
local function pool_needs(stored)
  return string.match(stored, '^{"id":%d+,"origin":"declared","needs":"([^"]*)"')
end

-- A pool as a table, or nil for a damaged one.
local function decode_pool(name, stored)
  local pool = object(stored)
  if not (pool and pool.id and pool.rank and pool.match) then
    return nil
  end
  pool.name = name
  return pool
end

-- Every pool as it is stored: {stored = name -> JSON, needs = name -> what it needs, auto = policy, autos = number of auto pools}.
-- Uses: POOLS.
local function read_pools(auto)
  local view = { stored = {}, needs = {}, auto = auto, autos = 0 }
  local flat = redis.call('HGETALL', POOLS)
  for index = 1, #flat, 2 do
    local name, stored = flat[index], flat[index + 1]
    if name ~= '' then
      local needs = pool_needs(stored)
      view.stored[name], view.needs[name] = stored, needs
      if not needs and pool_origin(stored) == 'auto' then
        view.autos = view.autos + 1
      end
    end
  end
  return view
end

-- An auto pool. Its name is its rule; the languages are there for people to read.
local function new_auto_pool(id, name, languages, now)
  return { id = id, name = name, origin = 'auto', priority = 0, rank = 0, match = { languages = languages }, created_at = now }
end
