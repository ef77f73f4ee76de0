#!lua
-- Puts nodes where the current configuration says, in one step: fences each by its epoch, finds or creates the capability class,
-- matches it, creates the auto pool if the policy allows, and writes membership, record, lease, capability index and events.
-- Registration and a changed heartbeat are the same call. Many nodes in one call come to what as many calls would, one after the
-- other; everything is read and decided before anything is written.
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
--   16 reserved     hash
--   17 due          zset
-- ARGV, these fifteen for each of 1..64 nodes, none of them twice
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
--   10 load             0.0000..1.0000
--   11 usage            JSON object of up to 4096 bytes, kept unread
--   12 lease_ms         1..86400000
--   13 admission_digest the admission policy that the node was checked under; empty = not checked
--   14 takeover         1 = a live session of the same id gives way, 0 = it is refused
--   15 reason           why, for the events; one line of up to 128 characters
-- REPLY, one after the other for each node
--   OK epoch class pool pool_id version token status reason cloned
--     pool is empty and pool_id 0 while nothing matches, reason then says why; status as people see it;
--     cloned = 1 if two nodes seem to share the id
--   STALE | UNKNOWN | CONFLICT instance | ADMISSION policy | CLASSES_FULL limit
--   or, for all of them: NO_NAMESPACE | SCHEMA found
-- EVENTS node.registered node.assigned node.status pool.created class.remapped config.bumped
-- COST O(log n) a node; a new class also O(pools)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CLASS_INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CAPABILITIES, MEMBERS, READY, LEASES, SESSIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local NODES, HOLDS, USAGE, HISTORY, EVENTS = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local RESERVED, DUE = KEYS[16], KEYS[17]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/tokens.lua
--@include lib/records.lua
--@include lib/usage.lua
--@include lib/ready.lua
--@include lib/fence.lua
--@include lib/pools.lua
--@include lib/bulk.lua

local WIDTH = 15
local ARGV, byte = ARGV, string.byte
local BRACE = byte('{')

local count = #ARGV / WIDTH
if #KEYS ~= 17 or count < 1 or count > MAX_UPSERTS or count ~= math.floor(count) then
  return badarg('upsert_node_to_pool takes 17 keys and 1..64 times 15 arguments')
end

-- What is wrong with the arguments of a node, or nil.
local function malformed(
  id, session, instance, mode, epoch, facts, record, digest, status, load, usage, lease_ms, _, takeover, why
)
  if not is_id(id, 128) then
    return 'node_id'
  end
  if mode ~= 'new' and mode ~= 'resume' and mode ~= 'update' then
    return 'mode must be new, resume or update'
  end
  if mode == 'update' then
    if session ~= '' or instance ~= '' then
      return 'an update is fenced by its epoch: session_id and instance must be empty'
    end
  elseif not is_id(session, 128) then
    return 'session_id'
  elseif not is_id(instance, 64) then
    return 'instance'
  end
  if not integer(epoch, 0, 9007199254740991) or (mode == 'new') ~= (epoch + 0 == 0) then
    return 'epoch must be 0 for a new session, and only for it'
  end
  if #facts > MAX_FACTS_BYTES then
    return 'facts are longer than ' .. MAX_FACTS_BYTES .. ' bytes'
  end
  if find(record, '\n', 1, true) or byte(record) ~= BRACE or #record > MAX_RECORD_BYTES then
    return 'record must be a JSON object on one line, of up to ' .. MAX_RECORD_BYTES .. ' bytes'
  end
  if not find(digest, '^%x+$') or #digest > 40 then
    return 'digest'
  end
  if status ~= 'g' and status ~= 'r' and status ~= 'd' then
    return 'status must be g, r or d'
  end
  if not is_fraction(load) then
    return 'load must be 0.0000..1.0000'
  end
  if byte(usage) ~= BRACE or #usage > MAX_USAGE_BYTES then
    return 'usage must be a JSON object of up to ' .. MAX_USAGE_BYTES .. ' bytes'
  end
  if not integer(lease_ms, 1, 86400000) then
    return 'lease_ms must be 1..86400000'
  end
  if takeover ~= '0' and takeover ~= '1' then
    return 'takeover must be 0 or 1'
  end
  if #why > 128 or find(why, '\n', 1, true) then
    return 'reason must be one line of up to 128 characters'
  end
  return nil
end

local ids, seen = {}, {}
for index = 1, count do
  local at = index * WIDTH
  local wrong = malformed(unpack(ARGV, at - WIDTH + 1, at))
  if wrong then
    return badarg(wrong)
  end
  local id = ARGV[at - WIDTH + 1]
  if seen[id] then
    return badarg('a node stands there twice')
  end
  ids[index], seen[id] = id, true
end

-- Read. Every key that may be written is read once, so that a key of the wrong type ends the script before it has written.
local config, refusal = read_config(
  'version', 'auto', 'admission_digest', 'next_class', 'next_pool', 'epoch_floor', 'declared_pools'
)
if not config then
  return refusal
end
local now = now_ms()
local tokens = redis.call('HMGET', SESSIONS, unpack(ids))
local records = redis.call('HMGET', NODES, unpack(ids))
local holds = redis.call('HMGET', HOLDS, unpack(ids))
local leases = redis.call('ZMSCORE', LEASES, unpack(ids))
local reserved = redis.call('HMGET', RESERVED, unpack(ids))
redis.call('ZCARD', DUE)
redis.call('ZCARD', READY)
redis.call('ZCARD', MEMBERS)
redis.call('HLEN', USAGE)
redis.call('XLEN', EVENTS)

-- Fields of a hash, each asked for once: name -> value, false for those that are not there.
local function look_up(key, names)
  local values, distinct = {}, {}
  for index = 1, #names do
    local name = names[index]
    if values[name] == nil then
      values[name], distinct[#distinct + 1] = false, name
    end
  end
  if #distinct > 0 then
    for index, value in ipairs(redis.call('HMGET', key, unpack(distinct))) do
      values[distinct[index]] = value
    end
  end
  return values
end

local function append(list, item)
  list[#list + 1] = item or nil
end

local nodes, digest_of, digests, classes, pools = {}, {}, {}, {}, {}
for index = 1, count do
  local at = (index - 1) * WIDTH
  local facts = ARGV[at + 6]
  local node = {
    id = ids[index],
    session = ARGV[at + 2],
    instance = ARGV[at + 3],
    mode = ARGV[at + 4],
    asked_epoch = ARGV[at + 5] + 0,
    facts_json = facts,
    record = ARGV[at + 7],
    digest = ARGV[at + 8],
    status = ARGV[at + 9],
    load = ARGV[at + 10],
    usage = ARGV[at + 11],
    lease_ms = ARGV[at + 12] + 0,
    admission_digest = ARGV[at + 13],
    takeover = ARGV[at + 14],
    why = ARGV[at + 15],
    previous = parse_token(tokens[index]),
    header = record_header(records[index]),
    held = holds[index] and true or false,
    lease_end = (leases[index] or 0) + 0,
    used = reserved[index] and used_slots(reserved[index]) or 0,
  }
  if not digest_of[facts] then
    digest_of[facts] = redis.sha1hex(facts)
    append(digests, digest_of[facts])
  end
  append(classes, node.previous and digits(node.previous.class))
  nodes[index] = node
end
local class_of = look_up(CLASS_INDEX, digests)
for _, digest in ipairs(digests) do
  class_of[digest] = string.match(class_of[digest] or '', '^%d+$')
  append(classes, class_of[digest])
end
local pool_of = look_up(CLASSES, classes)
for _, class in ipairs(classes) do
  append(pools, pool_of[class] ~= '' and pool_of[class])
end
local stored_pools = look_up(POOLS, pools)

local stored_version = tonumber(config.version)
local version = stored_version

-- Where a class belongs that nobody had before, or that no declared pool takes. Few calls need it, so that what it is made of is made
-- only here. Returns the class, {number, pool, pool_id, reason, write} and, with a pool that was made for it, {created}; or nil and the
-- reply that refuses the node.
local function place_class(node)
--@include lib/history.lua
--@include lib/facts.lua
--@include lib/matcher.lua
--@include lib/waiting.lua
  local auto, previous_class = cjson.decode(config.auto), node.previous and node.previous.class
  local number, is_new = tonumber(class_of[digest_of[node.facts_json]]), false
  local facts, set_name, pool, reason, autos
  if number then
    -- The class map is always what the matcher says.
    facts = parse_facts(redis.call('HGET', CLASS_FACTS, number))
    set_name = language_set_name(facts)
    pool, reason = auto_pool(auto, facts, set_name, pool_origin(redis.call('HGET', POOLS, set_name)))
    autos = redis.call('HLEN', POOLS) - 1 - tonumber(config.declared_pools)
  else
    if redis.call('HLEN', CLASS_FACTS) - 1 >= MAX_CLASSES then
      return nil, { 'CLASSES_FULL', digits(MAX_CLASSES) }
    end
    facts = parse_facts(node.facts_json)
    if not facts or not are_indexable(facts) then
      return nil, badarg('facts')
    end
    number, is_new, set_name = tonumber(config.next_class), true, language_set_name(facts)
    redis.call('ZCARD', CAPABILITIES)
    redis.call('HLEN', CLASSES)
    local view = read_pools(auto)
    pool, reason = place(view, facts, set_name)
    autos = view.autos
  end

  -- The auto pool of a class that lacks nothing else, if the policy allows it now, with the other classes that wait for it.
  local created, waiting
  if reason == 'no_pool' then
    reason = denial(auto, math.huge, autos) -- what no number of nodes would change is found without counting them
    if not reason then
      local there = class_nodes(number)
      local arriving = there + (previous_class == number and 0 or 1)
      waiting = classes_waiting_for(auto, set_name, number)
      for _, entry in ipairs(waiting) do
        arriving = arriving + entry.nodes
        if previous_class == entry.class then
          arriving = arriving - 1 -- it leaves that class for this one
        end
      end
      if not is_new then
        waiting[#waiting + 1] = { class = number, nodes = there }
      end
      reason = denial(auto, arriving, autos)
    end
    if not reason then
      if not history_accepts(version + 1) then
        return nil, redis.error_reply('PYSCHED_CORRUPT the history is ahead of the config version ' .. config.version)
      end
      version = version + 1
      created = new_auto_pool(tonumber(config.next_pool), set_name, languages_of(facts), now)
      pool, reason = set_name, 'matched'
    end
  end

  local class = { number = number, digits = digits(number), pool = pool or '', reason = reason, created = created }
  class.pool_id = digits(created and created.id or pool and pool_number(redis.call('HGET', POOLS, pool)) or 0)
  function class.write(author)
    if is_new then
      redis.call('HSET', CLASS_FACTS, number, node.facts_json)
      redis.call('HSET', CLASS_INDEX, digest_of[node.facts_json], number)
      redis.call('HSET', CLASSES, number, class.pool)
      for _, entry in ipairs(capability_entries(facts, number)) do
        redis.call('ZADD', CAPABILITIES, 0, entry)
      end
      redis.call('HSET', CONFIG, 'next_class', digits(number + 1))
    end
    if created then
      redis.call('HSET', POOLS, pool, encode_pool(created))
      redis.call(
        'HSET', CONFIG, 'version', digits(version), 'next_pool', digits(created.id + 1), 'updated_at', digits(now),
        'updated_by', author
      )
      local changes = { { pool = pool, change = 'added' } }
      record_history(now, version, 'auto_pool_created', author, 'first nodes of ' .. pool, changes, '')
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
  end
  return class
end

-- The header of the record: whose the session is, and the latest changes.
local function update_header(node, class)
  local header = node.header or empty_header()
  node.header = header
  if node.registered == 'takeover' then
    local takeovers = now - header.takeover_at <= CLONE_WINDOW_MS and header.takeovers + 1 or 1
    header.takeovers, header.takeover_at = takeovers, digits(now)
    if takeovers >= CLONE_TAKEOVERS then
      node.registered = 'cloned_id'
    end
  end
  if node.mode ~= 'update' then
    if header.session ~= '' and header.session ~= node.session then
      local latest = string.match(header.former, '^[^,]*' .. string.rep(',[^,]*', FORMER_SESSIONS - 2)) or header.former
      header.former = header.session .. (latest ~= '' and ',' .. latest or '')
    end
    header.session, header.instance = node.session, node.instance
  end
  -- The class may also get its pool in this very call, with the node already in it.
  if node.changes_class or (class.created and node.from_pool ~= class.pool) then
    header.from, header.to, header.version, header.at = node.from_pool, class.pool, digits(version), digits(now)
    header.reason = class.pool == '' and class.reason or (node.why ~= '' and node.why or node.registered or 'facts_changed')
  end
end

local members, ready, not_ready, lease_ends, sessions, stored_nodes, usages, due = {}, {}, {}, {}, {}, {}, {}, {}
local settled, count_settled, reply = {}, 0, {}

local function pair(list, first, second)
  local length = #list
  list[length + 1], list[length + 2] = first, second
end

-- A node's place, and what is to be written of it.
local function settle(node, class)
  local previous, id, number = node.previous, node.id, class.number
  node.class = class
  node.changes_class = not previous or previous.class ~= number
  node.from_pool = previous and pool_of[digits(previous.class)] or ''
  node.seen = effective_status(node.status, node.held)
  update_header(node, class)
  local token = make_token(node.epoch, number, node.status, node.digest)
  if node.changes_class then
    pair(members, number, id)
  end
  if node.status == 'r' and not node.held then
    pair(ready, ready_score(number, node.used, node.load), id)
  else
    append(not_ready, id)
  end
  local at = count_settled * 2
  lease_ends[at + 1], lease_ends[at + 2] = now + node.lease_ms, id
  sessions[at + 1], sessions[at + 2] = id, token
  stored_nodes[at + 1], stored_nodes[at + 2] = id, join_record(node.header, node.record)
  usages[at + 1], usages[at + 2] = id, node.load .. ' ' .. node.usage
  if node.used > 0 and node.registered then
    pair(due, now, '!' .. id) -- a new epoch: the document says what becomes of its reservations
  end
  count_settled = count_settled + 1
  settled[count_settled] = node
  at = #reply
  reply[at + 1], reply[at + 2], reply[at + 3] = 'OK', digits(node.epoch), class.digits
  reply[at + 4], reply[at + 5], reply[at + 6] = class.pool, class.pool_id, version == stored_version and config.version or digits(version)
  reply[at + 7], reply[at + 8], reply[at + 9] = token, node.seen, class.reason
  reply[at + 10] = node.registered == 'cloned_id' and '1' or '0'
end

-- Decide. A class without a pool may get one, and a new class is held against every pool: a node of such a class is taken alone, so that
-- what the others were decided on stays true, and a call stays short. What is not taken is left to the caller's next call.
local known, placed = {}, nil
for index, node in ipairs(nodes) do
  local refused = fence(node, config, now)
  local number = class_of[digest_of[node.facts_json]]
  local class = known[number]
  if not refused and not class then
    if number and pool_of[number] ~= '' then
      class = { number = tonumber(number), digits = number, pool = pool_of[number] or '', reason = 'matched' }
      class.pool_id = digits(pool_number(stored_pools[class.pool]))
      known[number] = class
    elseif index > 1 then
      break
    else
      class, refused = place_class(node)
      placed = class
    end
  end
  if not refused then
    settle(node, class)
  elseif refused.err then
    return refused
  else
    for _, word in ipairs(refused) do
      append(reply, word)
    end
  end
  if placed then
    break
  end
end

local no_permission = denied('HSET', 'ZADD', 'ZREM', 'XADD')
if no_permission then
  return no_permission
end

-- Write.
if placed then
  placed.write(nodes[1].header.instance)
end
bulk('ZADD', MEMBERS, members)
bulk('ZADD', READY, ready)
bulk('ZREM', READY, not_ready)
bulk('ZADD', LEASES, lease_ends)
bulk('HSET', SESSIONS, sessions)
bulk('HSET', NODES, stored_nodes)
bulk('HSET', USAGE, usages)
bulk('ZADD', DUE, due)
for _, node in ipairs(settled) do
  local previous, class = node.previous, node.class.digits
  if node.registered then
    emit(
      now, version, 'node.registered', 'node_id', node.id, 'class', class, 'epoch', node.epoch, 'instance', node.instance,
      'status', node.seen, 'reason', node.registered
    )
  elseif previous.status ~= node.status then
    local from_status = effective_status(previous.status, node.held)
    emit(
      now, version, 'node.status', 'node_id', node.id, 'from', from_status, 'to', node.seen, 'reported', STATUS_NAMES[node.status],
      'reason', node.why ~= '' and node.why or node.mode
    )
  end
  if node.changes_class then
    emit(
      now, version, 'node.assigned', 'node_id', node.id, 'class', class, 'pool', node.class.pool, 'from', node.from_pool,
      'to', node.class.pool, 'reason', node.header.reason
    )
  end
end
return reply
