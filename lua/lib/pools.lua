-- Pools as stored: JSON that begins with the pool's number and origin, so that these are read without decoding the rest.

local function encode_pool(pool)
  local rest = {
    priority = pool.priority,
    rank = pool.rank,
    match = pool.match,
    created_at = pool.created_at,
    idle_since = pool.idle_since,
  }
  return '{"id":' .. digits(pool.id) .. ',"origin":"' .. pool.origin .. '",' .. string.sub(cjson.encode(rest), 2)
end

local function pool_number(stored)
  return tonumber(string.match(stored or '', '^{"id":(%d+),')) or 0
end

-- 'declared' or 'auto'; nil for no pool.
local function pool_origin(stored)
  return string.match(stored or '', '^{"id":%d+,"origin":"(%l+)"')
end

local function by_rank(left, right)
  return left.rank < right.rank
end

-- Every pool: {pools = name -> pool, declared = list by rank, auto = policy, autos = number of auto pools, damaged = names}.
-- Uses: POOLS.
local function read_pools(auto)
  local view = { pools = {}, declared = {}, auto = auto, autos = 0, damaged = {} }
  local flat = redis.call('HGETALL', POOLS)
  for index = 1, #flat, 2 do
    local name, pool = flat[index], object(flat[index + 1])
    if pool and pool.id and pool.rank and pool.match then
      pool.name = name
      view.pools[name] = pool
      if pool.origin == 'declared' then
        view.declared[#view.declared + 1] = pool
      else
        view.autos = view.autos + 1
      end
    elseif name ~= '' then
      view.damaged[#view.damaged + 1] = name
    end
  end
  table.sort(view.declared, by_rank)
  return view
end

-- An auto pool. Its name is its rule; the languages are there for people to read.
local function new_auto_pool(id, name, languages, now)
  return { id = id, name = name, origin = 'auto', priority = 0, rank = 0, match = { languages = languages }, created_at = now }
end
