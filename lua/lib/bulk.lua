-- A variadic command over a list of any length, in chunks that unpack() can take.
local function bulk(command, key, items)
  for first = 1, #items, CHUNK do
    redis.call(command, key, unpack(items, first, math.min(first + CHUNK - 1, #items)))
  end
end
