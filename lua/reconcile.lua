#!lua flags=allow-oom
-- One bounded step of upkeep: expires lapsed leases, releases the nodes of instances that have gone, drops unused classes and idle
-- auto pools, places waiting classes, audits a slice.
-- It never clears and never rebuilds. If it was itself away (its last step is older than half a lease) it expires nothing until a full
-- lease has passed: an outage of the store must not empty the pools. A step that would expire more than a stated share of the fleet
-- goes on slowly instead, and says so once. After the clock went back, leases from before are cut to a full one.
-- A node whose lease lapsed because the instance that held its socket has gone gets the reconnect grace that a closed socket gets, once.
-- A step that leaves lapsed nodes to the next one, and is not braked, looks at no classes, pools or further nodes: the last one does.
-- Reservations whose lease lapsed end, as do those of a node that is expired, in the same step.
-- For that a gone instance is remembered until two leases after its own has lapsed, and until no lapsed node waits for a later step.
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
--   12 usage        hash
--   13 history      stream
--   14 events       stream
--   15 instances    hash
--   16 holds        hash
--   17 jobs         hash
--   18 due          zset
--   19 reserved     hash
--   20 tenants      hash
--   21 affinities   hash
-- ARGV
--   1 lease_ms         1..86400000: the lease that nodes get
--   2 force            1 = even if another step ran within min_interval_ms
--   3 expire           1..1000: nodes expired or released at most
--   4 scan             1..1000: classes looked at at most for use and damage, nodes audited at most; each node that the step expires
--                      or releases leaves one less of both, down to one
--   5 brake_permille   0..1000: share of the fleet beyond which the brake acts
--   6 brake_floor      0..1000000: lapsed leases up to which it never acts
--   7 brake_expire     1..1000: the same at most while it acts, or one in a hundred of the fleet if that is more
--   8 min_interval_ms  0..86400000
--   9 grace_ms         0..86400000: the reconnect grace of a node whose instance has gone
-- REPLY
--   OK version expired released placed_classes dropped_classes lapsed braked suspended_ms violations ended_jobs more_due
--     more_due = 1 if a further step should come soon: this one had no room for all reservations and memories that end
--     created pools, and for each: name
--     removed pools, and for each: name
--   SKIPPED version | NO_NAMESPACE | SCHEMA found
-- EVENTS node.expired node.released job.ended pool.created pool.removed class.remapped config.bumped reconcile.ran reconcile.braked
-- COST O((expire + 1500 jobs) * log n + scan + classes + pools); after the clock went back also O(10000 * log n)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CLASS_INDEX = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CAPABILITIES, MEMBERS, READY, LEASES, SESSIONS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local NODES, USAGE, HISTORY, EVENTS, INSTANCES = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local HOLDS, JOBS, DUE, RESERVED, TENANTS, AFFINITIES = KEYS[16], KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/history.lua
--@include lib/tokens.lua
--@include lib/records.lua
--@include lib/bulk.lua
--@include lib/facts.lua
--@include lib/classes.lua
--@include lib/matcher.lua
--@include lib/pools.lua
--@include lib/waiting.lua

-- What is done with reservations, apart, since a function of Lua has room for 200 names.
local function upkeep_of_jobs()
--@include lib/ledger.lua
--@include lib/upkeep_of_jobs.lua
  return { lose_with_node = lose_with_node, settle_due = settle_due, write = write_upkeep, outcome = outcome }
end
local reservations = upkeep_of_jobs()

local lease_ms, force = integer(ARGV[1], 1, 86400000), ARGV[2]
local expire, scan = integer(ARGV[3], 1, 1000), integer(ARGV[4], 1, 1000)
local brake_permille, brake_floor = integer(ARGV[5], 0, 1000), integer(ARGV[6], 0, 1000000)
local brake_expire, min_interval_ms = integer(ARGV[7], 1, 1000), integer(ARGV[8], 0, 86400000)
local grace_ms = integer(ARGV[9], 0, 86400000)
if #KEYS ~= 21 or #ARGV ~= 9 then
  return badarg('reconcile takes 21 keys and 9 arguments')
end
if not (lease_ms and expire and scan and brake_permille and brake_floor and brake_expire and min_interval_ms and grace_ms) then
  return badarg('a number is missing or out of its bounds')
end
if force ~= '0' and force ~= '1' then
  return badarg('force must be 0 or 1')
end

-- Read.
local config, refusal = read_config(
  'version', 'auto', 'selection', 'next_pool', 'epoch_floor', 'ticked_at', 'suspended_until', 'went_back', 'braked', 'class_cursor',
  'node_cursor'
)
if not config then
  return refusal
end
local now = now_ms()
local version = tonumber(config.version)
local ticked_at = tonumber(config.ticked_at)
local away = not ticked_at or now < ticked_at or now - ticked_at > lease_ms / 2
if force == '0' and not away and now - ticked_at < min_interval_ms then
  return { 'SKIPPED', config.version }
end
local suspended_until = tonumber(config.suspended_until) or 0
local went_back = ticked_at and now < ticked_at or (config.went_back == '1' and now < suspended_until)
if away then
  suspended_until = now + lease_ms
end
local total = redis.call('ZCARD', MEMBERS) - 1
local lapsed = redis.call('ZCOUNT', LEASES, '-inf', digits(now))
redis.call('ZCARD', READY)
redis.call('ZCARD', CAPABILITIES)
redis.call('HLEN', CLASS_FACTS)
redis.call('HLEN', CLASS_INDEX)
redis.call('HLEN', NODES)
redis.call('HLEN', USAGE)
redis.call('XLEN', EVENTS)
redis.call('HLEN', JOBS)
redis.call('HLEN', TENANTS)
redis.call('HLEN', AFFINITIES)
redis.call('ZCARD', DUE)

-- How many nodes this step may take. One that leaves lapsed nodes to the next does nothing else but what is due of jobs: what a step
-- does altogether is what holds the store.
local braked = lapsed > brake_floor and lapsed * 1000 > brake_permille * total
local allowed = braked and math.min(expire, math.max(brake_expire, math.ceil(total / 100))) or expire
local suspended_ms = math.max(suspended_until - now, 0)
local is_full = suspended_ms == 0 and not braked and lapsed > allowed
local auto = cjson.decode(config.auto)
local view, numbers, pool_of = { stored = {}, needs = {}, autos = 0 }, {}, {}
if not is_full then
  view, numbers, pool_of = read_pools(auto), read_classes()
end

-- Instances whose lease lapsed: whose nodes may have lost their sockets with them, and which of them are forgotten.
local lost_instances, instances_gone = {}, {}
local instances = redis.call('HGETALL', INSTANCES)
for index = 1, #instances, 2 do
  local lease_end = tonumber(string.match(instances[index + 1], '^(%d+) ')) or 0
  if instances[index] ~= '' and suspended_ms == 0 and lease_end <= now then
    lost_instances[instances[index]] = true
    if lease_end + 2 * lease_ms <= now and lapsed <= allowed then
      instances_gone[#instances_gone + 1] = instances[index]
    end
  end
end

-- Expire and release: which nodes.
local expired, expired_ids, released, released_ids, released_leases, released_tokens = {}, {}, {}, {}, {}, {}
local epoch_floor = tonumber(config.epoch_floor)
local members_gone = {}
local due = {}
if suspended_ms == 0 and lapsed > 0 then
  due = redis.call('ZRANGEBYSCORE', LEASES, '-inf', digits(now), 'LIMIT', 0, allowed)
end
if #due > 0 then
  local tokens, classes = redis.call('HMGET', SESSIONS, unpack(due)), redis.call('ZMSCORE', MEMBERS, unpack(due))
  local reserved = redis.call('HMGET', RESERVED, unpack(due))
  for index = 1, #due do
    classes[index] = classes[index] or '' -- the sentinel, which has no pool
  end
  local pools = redis.call('HMGET', CLASSES, unpack(classes))
  for index, node_id in ipairs(due) do
    local session, class, pool = parse_token(tokens[index]), tonumber(classes[index]) or 0, pools[index] or ''
    local offline = session and is_offline(session.status)
    local header = session and not offline and next(lost_instances) and record_header(redis.call('HGET', NODES, node_id))
    if header and lost_instances[header.instance] then
      released_ids[#released_ids + 1] = node_id
      released[#released + 1] = { node_id = node_id, pool = pool, epoch = session.epoch }
      released_leases[#released_leases + 1] = digits(now + grace_ms)
      released_leases[#released_leases + 1] = node_id
      released_tokens[#released_tokens + 1] = node_id
      released_tokens[#released_tokens + 1] = make_token(session.epoch, session.class, 'l', session.digest)
    elseif not reserved[index] or reservations.lose_with_node(node_id, now) then
      epoch_floor = math.max(epoch_floor, session and session.epoch or 0)
      expired_ids[#expired_ids + 1] = node_id
      expired[#expired + 1] = { class = class, pool = pool, reason = offline and 'grace_ended' or 'lease_lapsed' }
      members_gone[class] = (members_gone[class] or 0) + 1
    end
  end
end
if suspended_ms == 0 then
  reservations.settle_due(cjson.decode(config.selection), now)
end
-- After the clock went back: leases that no node can have been given since. They would outlive a node that has gone by as much.
local cut = {}
if went_back then
  local too_long = redis.call('ZRANGEBYSCORE', LEASES, '(' .. digits(now + lease_ms), '(+inf', 'LIMIT', 0, MAX_CUT_LEASES)
  for index, node_id in ipairs(too_long) do
    cut[index * 2 - 1] = digits(now + lease_ms)
    cut[index * 2] = node_id
  end
end
local function nodes_left(class)
  return class_nodes(class) - (members_gone[class] or 0)
end

-- Classes: a slice in order of their numbers, so that steps take turns over all of them. Unused ones go. A step that has many nodes to
-- expire looks at less: what it does altogether is what holds the store.
local look = is_full and 0 or math.max(scan - #due, 1)
local class_cursor, slice = tonumber(config.class_cursor) or 0, {}
for _, class in ipairs(numbers) do
  if class > class_cursor and #slice < look then
    slice[#slice + 1] = class
  end
end
class_cursor = #slice < look and 0 or slice[#slice] or class_cursor
local dropped, violations, users = {}, 0, {}
for first = 1, #slice, FACTS_AT_ONCE do
  local classes, digests = { unpack(slice, first, math.min(first + FACTS_AT_ONCE - 1, #slice)) }, {}
  local texts = redis.call('HMGET', CLASS_FACTS, unpack(classes))
  for index = 1, #classes do
    digests[index] = texts[index] and redis.sha1hex(texts[index]) or ''
  end
  local owners = redis.call('HMGET', CLASS_INDEX, unpack(digests))
  for index, class in ipairs(classes) do
    local pool = pool_of[class]
    if not texts[index] or tonumber(owners[index]) ~= class then
      violations = violations + 1
    end
    if nodes_left(class) < 1 then
      local facts = parse_facts(texts[index] or '')
      dropped[class] = facts and { entries = capability_entries(facts, class), digest = digests[index] }
    end
    if pool ~= '' and not view.needs[pool] and not pool_origin(view.stored[pool]) then
      violations = violations + 1
    end
  end
end
local left_now, unplaced = {}, false
for class, pool in pairs(pool_of) do
  if pool == '' then
    unplaced = true
  else
    local those = dropped[class] and left_now or users
    those[pool] = true
  end
end

-- Idle auto pools.
local removed, marked, changes = {}, {}, {}
local function mark(name, idle_since)
  local pool = decode_pool(name, view.stored[name])
  if pool then
    pool.idle_since = idle_since
    marked[#marked + 1] = name
    marked[#marked + 1] = encode_pool(pool)
  end
end
for name, stored in pairs(view.stored) do
  if not view.needs[name] and pool_origin(stored) == 'auto' then
    local idle_since = tonumber(string.match(stored, '"idle_since":(%d+)'))
    if users[name] then
      if idle_since then
        mark(name, nil)
      end
    elseif left_now[name] or not idle_since then
      mark(name, now)
    elseif now - idle_since >= auto.idle_ttl_ms then
      removed[#removed + 1] = name
    end
  end
end
table.sort(removed)
for _, name in ipairs(removed) do
  changes[#changes + 1] = { pool = name, change = 'removed' }
end

-- Waiting classes, all of them, largest first: a limit on how many are looked at would let some wait for ever.
local autos, next_pool = view.autos - #removed, tonumber(config.next_pool)
local waiting, created, remapped = {}, {}, {}
if unplaced and auto.enabled and autos < auto.max_pools then
  for _, set in ipairs(language_sets()) do
    local waits = pool_of[set.class] == '' and not dropped[set.class] and not pool_origin(view.stored[set.name])
    if waits and has_required_services(auto, set.class) then
      waiting[#waiting + 1] = { class = set.class, name = set.name, nodes = nodes_left(set.class) }
    end
  end
end
for _, group in ipairs(grant_auto_pools(auto, waiting, autos)) do
  local facts = parse_facts(redis.call('HGET', CLASS_FACTS, group.classes[1].class))
  local pool = new_auto_pool(next_pool, group.name, facts and languages_of(facts) or {}, now)
  next_pool = next_pool + 1
  created[#created + 1] = pool
  changes[#changes + 1] = { pool = pool.name, change = 'added' }
  for _, entry in ipairs(group.classes) do
    remapped[#remapped + 1] = { class = entry.class, to = pool.name, nodes = entry.nodes }
  end
end

-- Audit a slice of the nodes.
local node_cursor = tonumber(config.node_cursor) or 0
do
  local audited, audited_ids = is_full and {} or redis.call('ZRANGE', MEMBERS, node_cursor, node_cursor + look - 1, 'WITHSCORES'), {}
  for index = 1, #audited, 2 do
    audited_ids[#audited_ids + 1] = audited[index]
  end
  if #audited_ids > 0 then
    local tokens, leases = redis.call('HMGET', SESSIONS, unpack(audited_ids)), redis.call('ZMSCORE', LEASES, unpack(audited_ids))
    for index, node_id in ipairs(audited_ids) do
      if node_id ~= '' then
        local session, class = parse_token(tokens[index]), tonumber(audited[index * 2])
        if not session or session.class ~= class or not pool_of[class] or not leases[index] then
          violations = violations + 1
        end
      end
    end
  end
  node_cursor = #audited_ids < look and 0 or node_cursor + look
end

local changed_pools = #changes > 0
local new_version = changed_pools and version + 1 or version
if changed_pools and not history_accepts(new_version) then
  return redis.error_reply('PYSCHED_CORRUPT the history is ahead of the config version ' .. config.version)
end
local dropped_classes, dropped_digests, dropped_entries, packed_classes, packed_pools = {}, {}, {}, {}, {}
for class, entry in pairs(dropped) do
  dropped_classes[#dropped_classes + 1] = digits(class)
  dropped_digests[#dropped_digests + 1] = entry.digest
  for _, item in ipairs(entry.entries) do
    dropped_entries[#dropped_entries + 1] = item
  end
end
for _, entry in ipairs(remapped) do
  packed_classes[#packed_classes + 1] = digits(entry.class)
  packed_classes[#packed_classes + 1] = entry.to
end
for _, pool in ipairs(created) do
  packed_pools[#packed_pools + 1] = pool.name
  packed_pools[#packed_pools + 1] = encode_pool(pool)
end

local no_permission = denied('HSET', 'HDEL', 'ZADD', 'ZREM', 'XADD')
if no_permission then
  return no_permission
end

-- Write.
bulk('ZADD', LEASES, cut)
bulk('ZREM', READY, released_ids)
bulk('ZADD', LEASES, released_leases)
bulk('HSET', SESSIONS, released_tokens)
for _, node in ipairs(released) do
  emit(
    now, version, 'node.released', 'node_id', node.node_id, 'pool', node.pool, 'epoch', digits(node.epoch), 'reason', 'instance_lost'
  )
end
for _, key in ipairs({ MEMBERS, READY, LEASES }) do
  bulk('ZREM', key, expired_ids)
end
for _, key in ipairs({ SESSIONS, NODES, USAGE }) do
  bulk('HDEL', key, expired_ids)
end
for index, node in ipairs(expired) do
  emit(
    now, version, 'node.expired', 'node_id', expired_ids[index], 'pool', node.pool, 'from', node.pool, 'class', node.class,
    'reason', node.reason
  )
end
reservations.write(now, version)
bulk('HDEL', CLASSES, dropped_classes)
bulk('HDEL', CLASS_FACTS, dropped_classes)
bulk('HDEL', CLASS_INDEX, dropped_digests)
bulk('ZREM', CAPABILITIES, dropped_entries)
bulk('HDEL', POOLS, removed)
bulk('HSET', POOLS, marked)
bulk('HSET', POOLS, packed_pools)
bulk('HSET', CLASSES, packed_classes)
bulk('HDEL', INSTANCES, instances_gone)
if braked and config.braked ~= '1' and suspended_ms == 0 then
  emit(
    now, version, 'reconcile.braked', 'lapsed', digits(lapsed), 'nodes', digits(total), 'reason', 'too many leases lapsed at once'
  )
end
if changed_pools then
  redis.call(
    'HSET', CONFIG, 'version', digits(new_version), 'next_pool', digits(next_pool), 'updated_at', digits(now), 'updated_by', 'reconcile'
  )
  local kind = #created > 0 and 'auto_pool_created' or 'auto_pool_removed'
  record_history(now, new_version, kind, 'reconcile', 'idle auto pools removed, waiting classes placed', changes, '')
  for _, name in ipairs(removed) do
    local number = digits(pool_number(view.stored[name]))
    emit(now, new_version, 'pool.removed', 'pool', name, 'pool_id', number, 'origin', 'auto', 'reason', 'idle')
  end
  for _, pool in ipairs(created) do
    emit(now, new_version, 'pool.created', 'pool', pool.name, 'pool_id', digits(pool.id), 'origin', 'auto', 'reason', 'auto')
  end
  for _, entry in ipairs(remapped) do
    emit(
      now, new_version, 'class.remapped', 'class', digits(entry.class), 'from', '', 'to', entry.to, 'nodes', digits(entry.nodes),
      'reason', 'auto_pool_created'
    )
  end
  emit(now, new_version, 'config.bumped', 'reason', kind)
end
redis.call(
  'HSET', CONFIG, 'ticked_at', digits(now), 'suspended_until', digits(suspended_until), 'went_back', went_back and '1' or '0',
  'epoch_floor', digits(epoch_floor),
  'braked', braked and suspended_ms == 0 and '1' or '0', 'class_cursor', digits(class_cursor), 'node_cursor', digits(node_cursor)
)
if #expired > 0 or #released > 0 or #dropped_classes > 0 or changed_pools or violations > 0 then
  emit(
    now, new_version, 'reconcile.ran', 'expired', digits(#expired), 'released', digits(#released),
    'dropped_classes', digits(#dropped_classes), 'placed_classes', digits(#remapped), 'violations', digits(violations)
  )
end
local ended_jobs, more_due = reservations.outcome()
local reply = {
  'OK', digits(new_version), digits(#expired), digits(#released), digits(#remapped), digits(#dropped_classes), digits(lapsed),
  braked and suspended_ms == 0 and '1' or '0', digits(suspended_ms), digits(violations), ended_jobs, more_due, digits(#created),
}
for _, pool in ipairs(created) do
  reply[#reply + 1] = pool.name
end
reply[#reply + 1] = digits(#removed)
for _, name in ipairs(removed) do
  reply[#reply + 1] = name
end
return reply
