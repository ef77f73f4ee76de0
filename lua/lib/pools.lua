-- Pools as stored: JSON that begins with the pool's number, so that the number is read without decoding the rest.

local function encode_pool(pool)
  local rest = {
    origin = pool.origin,
    priority = pool.priority,
    rank = pool.rank,
    match = pool.match,
    created_at = pool.created_at,
    idle_since = pool.idle_since,
  }
  return '{"id":' .. digits(pool.id) .. ',' .. string.sub(cjson.encode(rest), 2)
end

local function pool_number(stored)
  return tonumber(string.match(stored or '', '^{"id":(%d+),')) or 0
end

local function pool_origin(stored)
  if not stored then
    return nil
  end
  return string.find(stored, '"origin":"auto"', 1, true) and 'auto' or 'declared'
end

local function by_rank(left, right)
  return left.rank < right.rank
end

-- Every pool: {pools = name -> pool, declared = list by rank, auto = policy, autos = number of auto pools}. Uses: POOLS.
local function read_pools(auto)
  local view = { pools = {}, declared = {}, auto = auto, autos = 0 }
  local flat = redis.call('HGETALL', POOLS)
  for index = 1, #flat, 2 do
    if flat[index] ~= '' then
      local pool = cjson.decode(flat[index + 1])
      pool.name = flat[index]
      view.pools[pool.name] = pool
      if pool.origin == 'declared' then
        view.declared[#view.declared + 1] = pool
      else
        view.autos = view.autos + 1
      end
    end
  end
  table.sort(view.declared, by_rank)
  return view
end

-- An auto pool. Its name is its rule; the languages are there for people to read.
local function new_auto_pool(id, name, languages, now)
  return { id = id, name = name, origin = 'auto', priority = 0, rank = 0, match = { languages = languages }, created_at = now }
end
