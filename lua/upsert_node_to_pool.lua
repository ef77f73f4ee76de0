#!lua
-- Puts a node where the current configuration says, in one step: fences by epoch, finds or creates the capability class, matches it,
-- creates the auto pool if the policy allows, and writes membership, record, lease, capability index and events.
-- Registration and a changed heartbeat are the same call.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 class_index   hash
--   6 capabilities  zset
--   7 members       zset
--   8 ready         zset
--   9 leases        zset
--   10 sessions     hash
--   11 nodes        hash
--   12 holds        hash
--   13 usage        hash
--   14 history      stream
--   15 events       stream
-- ARGV
--   1 node_id           1..128 characters of [A-Za-z0-9._:-]
--   2 session_id        1..128 characters of the same: the caller's name of one socket's tenure; repeating a call changes nothing;
--                       empty for update
--   3 instance          1..64 characters of the same: the scheduler instance that holds the socket; empty for update
--   4 mode              new (a new session), resume (the same session, after the store lost it) or update (facts, record or status changed)
--   5 epoch             0 for new, else the session's epoch
--   6 facts             canonical JSON object of up to 131072 bytes
--   7 record            canonical JSON object without a newline, of up to 65536 bytes, kept unread
--   8 digest            1..40 hex digits: digest of facts and record
--   9 status            g registering, r ready, d degraded
--   10 load             0..1
--   11 usage            JSON object of up to 4096 bytes, kept unread
--   12 lease_ms         1..86400000
--   13 admission_digest the admission policy that the node was checked under; empty = not checked
--   14 takeover         1 = a live session of the same id gives way, 0 = it is refused
--   15 reason           why, for the events; up to 128 characters
-- REPLY
--   OK epoch class pool pool_id version token status reason cloned
--     pool is empty and pool_id 0 while nothing matches, reason then says why; status as people see it;
--     cloned = 1 if two nodes seem to share the id
--   STALE | UNKNOWN | CONFLICT instance | ADMISSION policy | CLASSES_FULL limit | NO_NAMESPACE | SCHEMA found
-- EVENTS node.registered node.assigned node.status pool.created class.remapped config.bumped
-- COST O(log n); a new class also O(pools)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CLASS_INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CAPABILITIES, MEMBERS, READY, LEASES, SESSIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local NODES, HOLDS, USAGE, HISTORY, EVENTS = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/history.lua
--@include lib/tokens.lua
--@include lib/nodes.lua
--@include lib/facts.lua
--@include lib/matcher.lua
--@include lib/pools.lua
--@include lib/waiting.lua

local node_id, session_id, instance, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local facts_json, record, digest, status = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local usage, admission_digest, takeover, why = ARGV[11], ARGV[13], ARGV[14], ARGV[15]
local asked_epoch = integer(ARGV[5], 0, 9007199254740991)
local load = fraction(ARGV[10])
local lease_ms = integer(ARGV[12], 1, 86400000)
if #KEYS ~= 15 or #ARGV ~= 15 then
  return badarg('upsert_node_to_pool takes 15 keys and 15 arguments')
end
if not is_id(node_id, 128) then
  return badarg('node_id')
end
if mode ~= 'new' and mode ~= 'resume' and mode ~= 'update' then
  return badarg('mode must be new, resume or update')
end
if mode == 'update' and (session_id ~= '' or instance ~= '') then
  return badarg('an update is fenced by its epoch: session_id and instance must be empty')
end
if mode ~= 'update' and not is_id(session_id, 128) then
  return badarg('session_id')
end
if mode ~= 'update' and not is_id(instance, 64) then
  return badarg('instance')
end
if not asked_epoch or (mode == 'new') ~= (asked_epoch == 0) then
  return badarg('epoch must be 0 for a new session, and only for it')
end
if #facts_json > MAX_FACTS_BYTES then
  return badarg('facts are longer than ' .. MAX_FACTS_BYTES .. ' bytes')
end
if string.find(record, '\n', 1, true) or string.sub(record, 1, 1) ~= '{' or #record > MAX_RECORD_BYTES then
  return badarg('record must be a JSON object on one line, of up to ' .. MAX_RECORD_BYTES .. ' bytes')
end
if not string.match(digest, '^%x+$') or #digest > 40 then
  return badarg('digest')
end
if status ~= 'g' and status ~= 'r' and status ~= 'd' then
  return badarg('status must be g, r or d')
end
if not load then
  return badarg('load must be 0..1')
end
if string.sub(usage, 1, 1) ~= '{' or #usage > MAX_USAGE_BYTES then
  return badarg('usage must be a JSON object of up to ' .. MAX_USAGE_BYTES .. ' bytes')
end
if not lease_ms then
  return badarg('lease_ms must be 1..86400000')
end
if takeover ~= '0' and takeover ~= '1' then
  return badarg('takeover must be 0 or 1')
end
if #why > 128 then
  return badarg('reason is longer than 128 characters')
end

-- Read. Every key that may be written is read once, so that a key of the wrong type ends the script before it has written.
local config, refusal = read_config(
  'version', 'auto', 'admission_digest', 'next_class', 'next_pool', 'epoch_floor', 'declared_pools'
)
if not config then
  return refusal
end
local version = tonumber(config.version)
local now = now_ms()
local stored_token = redis.call('HGET', SESSIONS, node_id)
local held = redis.call('HEXISTS', HOLDS, node_id) == 1
local lease_end = tonumber(redis.call('ZSCORE', LEASES, node_id) or 0)
redis.call('ZSCORE', READY, node_id)
redis.call('ZSCORE', MEMBERS, node_id)
redis.call('HLEN', USAGE)
redis.call('XLEN', EVENTS)
local previous = parse_token(stored_token)
local header = record_header(redis.call('HGET', NODES, node_id))
local same_session = previous and header and header.session == session_id
local function is_former(session)
  for _, former in ipairs(header and header.former or {}) do
    if former == session then
      return true
    end
  end
  return false
end

-- Validate: the fence.
local epoch, registered
if mode == 'update' then
  if not previous or previous.epoch < asked_epoch then
    -- An older epoch than the caller's: the store lost the newer session (a failover), so the caller registers again.
    return { 'UNKNOWN' }
  end
  if previous.epoch ~= asked_epoch or previous.status == 'o' then
    return { 'STALE' }
  end
  if previous.status == 'l' then
    -- Its instance was taken for dead: the session goes on by registering again, so that the record names who holds it.
    return { 'UNKNOWN' }
  end
  epoch = asked_epoch
elseif same_session then
  if previous.status == 'o' then
    return { 'STALE' }
  end
  -- The stored epoch is newer if the reply that gave it was lost, older if the store lost it.
  epoch = math.max(previous.epoch, asked_epoch)
  registered = epoch > previous.epoch and 'resume' or nil
elseif is_former(session_id) then
  -- A late repetition of a call that succeeded, from before a newer socket took the node over.
  return { 'STALE' }
elseif mode == 'resume' then
  local floor = tonumber(config.epoch_floor)
  if previous and previous.epoch >= asked_epoch then
    return { 'STALE' }
  end
  -- At or below the floor a later session may have come and gone: the caller lives, but needs a new epoch.
  epoch = asked_epoch > floor and asked_epoch or math.max(now, floor + 1)
  registered = 'resume'
else
  epoch = math.max(now, tonumber(config.epoch_floor) + 1, previous and previous.epoch + 1 or 0)
  registered = previous and 'reconnect' or 'new'
end
-- A session that is put back was there first: the store has only forgotten it.
local takes_over = mode == 'new' and registered and previous and not is_offline(previous.status) and lease_end > now
if takes_over then
  if takeover == '0' then
    return { 'CONFLICT', header and header.instance or '' }
  end
  registered = 'takeover'
end
if mode == 'new' and registered and admission_digest ~= '' and admission_digest ~= config.admission_digest then
  return { 'ADMISSION', redis.call('HGET', CONFIG, 'admission') }
end

-- The class and its pool.
local facts_digest = redis.sha1hex(facts_json)
local class = tonumber(redis.call('HGET', CLASS_INDEX, facts_digest) or nil)
local is_new_class = not class
local facts, pool, reason, set_name, autos
if is_new_class then
  if redis.call('HLEN', CLASS_FACTS) - 1 >= MAX_CLASSES then
    return { 'CLASSES_FULL', digits(MAX_CLASSES) }
  end
  facts = parse_facts(facts_json)
  if not facts or not are_indexable(facts) then
    return badarg('facts')
  end
  class = tonumber(config.next_class)
  set_name = language_set_name(facts)
  redis.call('ZCARD', CAPABILITIES)
  redis.call('HLEN', CLASSES)
  local view = read_pools(cjson.decode(config.auto))
  pool, reason = place(view, facts, set_name)
  autos = view.autos
else
  pool, reason = redis.call('HGET', CLASSES, class), 'matched'
  if pool == '' then
    -- No declared pool takes it: the class map is always what the matcher says.
    facts = parse_facts(redis.call('HGET', CLASS_FACTS, class))
    set_name = language_set_name(facts)
    local namesake = pool_origin(redis.call('HGET', POOLS, set_name))
    pool, reason = auto_pool(cjson.decode(config.auto), facts, set_name, namesake)
    autos = redis.call('HLEN', POOLS) - 1 - tonumber(config.declared_pools)
  end
end
local from_pool = previous and redis.call('HGET', CLASSES, previous.class) or ''
local created, waiting
if reason == 'no_pool' then
  local auto = cjson.decode(config.auto)
  reason = denial(auto, math.huge, autos) -- what no number of nodes would change is found without counting them
  if not reason then
    local there = class_nodes(class)
    local nodes = there
    if not (previous and previous.class == class) then
      nodes = nodes + 1
    end
    waiting = classes_waiting_for(auto, set_name, class)
    for _, entry in ipairs(waiting) do
      nodes = nodes + entry.nodes
      if previous and previous.class == entry.class then
        nodes = nodes - 1 -- it leaves that class for this one
      end
    end
    if not is_new_class then
      waiting[#waiting + 1] = { class = class, nodes = there }
    end
    reason = denial(auto, nodes, autos)
  end
  if not reason then
    version = version + 1
    if not history_accepts(version) then
      return redis.error_reply('PYSCHED_CORRUPT the history is ahead of the config version ' .. config.version)
    end
    created = new_auto_pool(tonumber(config.next_pool), set_name, languages_of(facts), now)
    pool, reason = set_name, 'matched'
  end
end
pool = pool or ''
local pool_id = created and created.id or (pool ~= '' and pool_number(redis.call('HGET', POOLS, pool)) or 0)
local token = make_token(epoch, class, status, digest)

-- The header of the record.
header = header or {}
local cloned = '0'
if takes_over then
  local repeated = header.takeover_at and now - header.takeover_at <= CLONE_WINDOW_MS
  header.takeovers = repeated and header.takeovers + 1 or 1
  header.takeover_at = now
  if header.takeovers >= CLONE_TAKEOVERS then
    registered, cloned = 'cloned_id', '1'
  end
end
if mode ~= 'update' then
  if header.session and header.session ~= session_id then
    local former = { header.session }
    for index = 1, math.min(#(header.former or {}), FORMER_SESSIONS - 1) do
      former[index + 1] = header.former[index]
    end
    header.former = former
  end
  header.session, header.instance = session_id, instance
end
if registered or not header.registered_at then
  header.registered_at = now
end
local class_changed = not previous or previous.class ~= class
-- The class may also get its pool in this very call, with the node already in it.
local moved = class_changed or (created and from_pool ~= pool)
if moved then
  local because = pool == '' and reason or (why ~= '' and why or registered or 'facts_changed')
  header.transition = { from = from_pool, to = pool, reason = because, version = version, at = now }
end
local stored_record = join_record(header, record)

local no_permission = denied('HSET', 'ZADD', 'ZREM', 'XADD')
if no_permission then
  return no_permission
end

-- Write.
if is_new_class then
  redis.call('HSET', CLASS_FACTS, class, facts_json)
  redis.call('HSET', CLASS_INDEX, facts_digest, class)
  redis.call('HSET', CLASSES, class, pool)
  for _, entry in ipairs(capability_entries(facts, class)) do
    redis.call('ZADD', CAPABILITIES, 0, entry)
  end
  redis.call('HSET', CONFIG, 'next_class', digits(class + 1))
end
if created then
  redis.call('HSET', POOLS, pool, encode_pool(created))
  redis.call(
    'HSET', CONFIG, 'version', digits(version), 'next_pool', digits(created.id + 1), 'updated_at', digits(now),
    'updated_by', header.instance or ''
  )
  local changes = { { pool = pool, change = 'added' } }
  record_history(now, version, 'auto_pool_created', header.instance or '', 'first nodes of ' .. pool, changes, '')
  emit(now, version, 'pool.created', 'pool', pool, 'pool_id', digits(created.id), 'origin', 'auto', 'reason', 'auto')
  for _, entry in ipairs(waiting) do
    redis.call('HSET', CLASSES, entry.class, pool)
    emit(
      now, version, 'class.remapped', 'class', digits(entry.class), 'from', '', 'to', pool, 'nodes', digits(entry.nodes),
      'reason', 'auto_pool_created'
    )
  end
  emit(now, version, 'config.bumped', 'reason', 'auto_pool_created')
end
if class_changed then
  redis.call('ZADD', MEMBERS, class, node_id)
end
if status == 'r' and not held then
  redis.call('ZADD', READY, ready_score(class, load), node_id)
else
  redis.call('ZREM', READY, node_id)
end
redis.call('ZADD', LEASES, digits(now + lease_ms), node_id)
redis.call('HSET', SESSIONS, node_id, token)
redis.call('HSET', NODES, node_id, stored_record)
redis.call('HSET', USAGE, node_id, join_usage(load, usage))
local seen = effective_status(status, held)
if registered then
  emit(
    now, version, 'node.registered', 'node_id', node_id, 'class', digits(class), 'epoch', digits(epoch), 'instance', instance,
    'status', seen, 'reason', registered
  )
elseif previous.status ~= status then
  local from_status = effective_status(previous.status, held)
  emit(
    now, version, 'node.status', 'node_id', node_id, 'from', from_status, 'to', seen, 'reported', STATUS_NAMES[status],
    'reason', why ~= '' and why or mode
  )
end
if class_changed then
  emit(
    now, version, 'node.assigned', 'node_id', node_id, 'class', digits(class), 'pool', pool, 'from', from_pool, 'to', pool,
    'reason', header.transition.reason
  )
end
return {
  'OK', digits(epoch), digits(class), pool, digits(pool_id), digits(version), token, seen, reason, cloned,
}
