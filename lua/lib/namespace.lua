local CONFIG_NUMBERS = {
  version = true, document_version = true, next_class = true, next_pool = true, epoch_floor = true, declared_pools = true,
}

-- Reads fields of the configuration hash, after the layout version has been checked. A number that is none ends the script here:
-- found later, it would end it between two writes.
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
    if CONFIG_NUMBERS[name] and not string.match(config[name], '^%d+$') then
      return nil, redis.error_reply('PYSCHED_CORRUPT ' .. name .. ' in the configuration is no number')
    end
  end
  return config
end
