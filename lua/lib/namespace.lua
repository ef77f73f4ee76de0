-- Reads fields of the configuration hash, after the layout version has been checked.
-- Uses: CONFIG.
-- Returns the values, or nil and the reply with which the script must end.
local function read_config(...)
  local values = redis.call('HMGET', CONFIG, 'schema', ...)
  if not values[1] then
    return nil, { 'NO_NAMESPACE' }
  end
  if values[1] ~= SCHEMA then
    return nil, { 'SCHEMA', values[1] }
  end
  local config = {}
  for index, name in ipairs({ ... }) do
    config[name] = values[index + 1] or ''
  end
  return config
end
