-- Ranges of `ready`.
--@include lib/ready.lua

-- The scores of a class's nodes that have at most so many slots reserved.
local function ready_range(class, most_used)
  return class * CLASS_SPAN, class * CLASS_SPAN + most_used * 2 + 1
end

-- Reserved slots and load of a node by its score.
local function read_ready(class, score)
  local rest = score - class * CLASS_SPAN
  local used = math.floor(rest / 2)
  return used, rest - used * 2
end

-- Uses: READY.
local function ready_count(class)
  return redis.call('ZCOUNT', READY, ready_range(class, CLASS_SPAN / 2 - 1))
end
