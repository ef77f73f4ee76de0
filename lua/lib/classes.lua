local FACTS_AT_ONCE = 64 -- of so many classes at most are facts read together: they may be long

-- The class -> pool map: numbers of the classes in order, number -> pool, '' for none, and number -> number as text.
-- Uses: CLASSES.
local function read_classes()
  local flat = redis.call('HGETALL', CLASSES)
  local numbers, pool_of, text_of, last, sorted = {}, {}, {}, 0, true
  for index = 1, #flat, 2 do
    local class = tonumber(flat[index])
    if class then -- not the sentinel
      numbers[#numbers + 1], pool_of[class], text_of[class] = class, flat[index + 1], flat[index]
      last, sorted = class, sorted and class > last
    end
  end
  if not sorted then -- a small hash is in the order in which classes were made
    table.sort(numbers)
  end
  return numbers, pool_of, text_of
end
