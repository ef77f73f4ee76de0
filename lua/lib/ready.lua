-- A place in `ready`: class, reserved slots and load share one score, so that a range of scores is the nodes of a class that have so many
-- slots free, those with the fewest reserved first, then the least loaded.
local CLASS_SPAN = 1024

-- Class and load may be texts.
local function ready_score(class, used, load)
  return class * CLASS_SPAN + used * 2 + load
end

-- A node's reservations are its number of reserved slots and the ids of its jobs, joined with spaces.
local function used_slots(reserved)
  return (string.match(reserved or '', '^%d+') or 0) + 0
end
