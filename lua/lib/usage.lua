-- Usage as stored, and as a heartbeat gives it: the load, a space, and the node's own JSON.
local LOAD_WIDTH = 7 -- of a load with its space

local function usage_load(stored)
  return tonumber(string.match(stored or '', '^([01]%.%d%d%d%d) ')) or 0
end

local function usage_json(stored)
  return string.match(stored or '', '^%S+ (.*)$') or '{}'
end
