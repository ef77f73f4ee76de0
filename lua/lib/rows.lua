-- Rows of nodes and classes as the reading scripts reply them.
-- Uses: POOLS, CLASSES, CLASS_FACTS, LEASES, SESSIONS, NODES, HOLDS, USAGE.

-- A node: node_id token lease_end load instance holds; nothing for a node without a session.
local function append_node(flat, node_id)
  local token = redis.call('HGET', SESSIONS, node_id)
  local session = node_id ~= '' and parse_token(token)
  if not session then
    return nil
  end
  local header = record_header(redis.call('HGET', NODES, node_id))
  flat[#flat + 1] = node_id
  flat[#flat + 1] = token
  flat[#flat + 1] = redis.call('ZSCORE', LEASES, node_id) or '0'
  flat[#flat + 1] = string.format('%.4f', usage_load(redis.call('HGET', USAGE, node_id)))
  flat[#flat + 1] = header and header.instance or ''
  flat[#flat + 1] = redis.call('HGET', HOLDS, node_id) or ''
  return session.class
end

-- A class: class pool pool_id facts.
local function append_class(flat, class)
  local pool = redis.call('HGET', CLASSES, class) or ''
  flat[#flat + 1] = digits(class)
  flat[#flat + 1] = pool
  flat[#flat + 1] = digits(pool ~= '' and pool_number(redis.call('HGET', POOLS, pool)) or 0)
  flat[#flat + 1] = redis.call('HGET', CLASS_FACTS, class) or '{}'
end
