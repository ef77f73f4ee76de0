#!lua
-- Makes a document the configuration: compares versions, diffs the document against what is there, remaps every class, and writes
-- pools, class map, version, history and events as one step. Nodes do not move; classes do. `plan` runs the same code and writes nothing.
--
-- KEYS
--   1 config        hash
--   2 pools         hash
--   3 classes       hash
--   4 class_facts   hash
--   5 capabilities  zset
--   6 members       zset
--   7 ready         zset
--   8 history       stream
--   9 events        stream
--   10 tenant_rules hash
-- ARGV
--   1 mode            plan or apply
--   2 document        canonical JSON of the document
--   3 digest          1..40 hex digits: digest of the document
--   4 admission       canonical JSON of its admission section
--   5 expect_version  document version that must be in force, -1 = any
--   6 allow_empty     1 = a document without pools may replace one with pools
--   7 force           1 = the guard is off
--   8 author          up to 128 characters
--   9 reason          up to 256 characters
--   10 kind           document or rollback
-- REPLY
--   OK | UNCHANGED, then: version_before version_after document_version unassigned_nodes
--     changes, and for each: pool change (added, changed, removed)
--     moves, and for each: class from to nodes
--   CONFLICT document_version | EMPTY declared_pools | GUARD lost_ready ready permille | NO_NAMESPACE | SCHEMA found
-- EVENTS pool.created pool.removed class.remapped config.bumped
-- COST O(pools * classes)

local CONFIG, POOLS, CLASSES, CLASS_FACTS, CAPABILITIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local MEMBERS, READY, HISTORY, EVENTS, TENANT_RULES = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/events.lua
--@include lib/history.lua
--@include lib/bulk.lua
--@include lib/facts.lua
--@include lib/unread_facts.lua
--@include lib/classes.lua
--@include lib/matcher.lua
--@include lib/pools.lua
--@include lib/rules.lua
--@include lib/waiting.lua
--@include lib/ranges.lua
--@include lib/policy.lua

local mode, document_json, digest, admission = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local allow_empty, force, author, why, kind = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local expect_version = integer(ARGV[5], -1, 9007199254740991)
if #KEYS ~= 10 or #ARGV ~= 10 then
  return badarg('bump_config_version takes 10 keys and 10 arguments')
end
if mode ~= 'plan' and mode ~= 'apply' then
  return badarg('mode must be plan or apply')
end
if not string.match(digest, '^%x+$') or #digest > 40 then
  return badarg('digest')
end
if not object(admission) then
  return badarg('admission is no JSON object')
end
if not expect_version then
  return badarg('expect_version')
end
if (allow_empty ~= '0' and allow_empty ~= '1') or (force ~= '0' and force ~= '1') then
  return badarg('allow_empty and force must be 0 or 1')
end
if #author > 128 or #why > 256 then
  return badarg('author is longer than 128 or reason longer than 256 characters')
end
if kind ~= 'document' and kind ~= 'rollback' then
  return badarg('kind must be document or rollback')
end
local document = object(document_json)
if not document or document.schema ~= 1 then
  return badarg('document is no JSON object of schema 1')
end
local auto, guard, wanted = document.auto, document.guard, document.pools
local selection, tenants = document.selection, document.tenants
if type(auto) ~= 'table' or type(auto.enabled) ~= 'boolean' or type(auto.min_nodes) ~= 'number' or type(auto.max_pools) ~= 'number'
  or type(auto.idle_ttl_ms) ~= 'number' or not is_string_list(auto.require_services) then
  return badarg('document.auto')
end
if type(guard) ~= 'table' or type(guard.max_unassigned_permille) ~= 'number' then
  return badarg('document.guard')
end
if not is_selection(selection) then
  return badarg('document.selection')
end
if type(tenants) ~= 'table' or #tenants > MAX_TENANTS then
  return badarg('document.tenants')
end
local rules = { [''] = join_tenant_rule(selection.tenant_slots, false, '') }
for order, tenant in ipairs(tenants) do
  if not is_tenant(tenant) or rules[tenant.name] then
    return badarg('document.tenants[' .. order .. ']')
  end
  rules[tenant.name] = join_tenant_rule(tenant.slots or selection.tenant_slots, tenant.strict, tenant.pool or '')
end
if type(wanted) ~= 'table' or #wanted > MAX_POOLS then
  return badarg('document.pools')
end
local in_document = {}
for order, pool in ipairs(wanted) do
  if type(pool) ~= 'table' or type(pool.name) ~= 'string' or #pool.name > 128 or not string.match(pool.name, '^[a-z0-9][a-z0-9._-]*$') then
    return badarg('document.pools[' .. order .. '].name')
  end
  if not is_rule(pool.match) or type(pool.priority) ~= 'number' or not is_pool_selection(pool.selection) then
    return badarg('document.pools[' .. order .. ']')
  end
  if in_document[pool.name] then
    return badarg('document.pools[' .. order .. '].name is there twice')
  end
  in_document[pool.name] = true
  pool.order = order
  pool.constraints = specificity(pool.match)
end

-- Read and decide.
local config, refusal = read_config('version', 'auto', 'document_version', 'document_digest', 'declared_pools', 'next_pool')
if not config then
  return refusal
end
local now = now_ms()
local version, document_version = tonumber(config.version), tonumber(config.document_version)
local total_ready = redis.call('ZCARD', READY) - 1
redis.call('XLEN', EVENTS)
redis.call('ZCARD', CAPABILITIES)
local former_rules = redis.call('HGETALL', TENANT_RULES)

local numbers, pool_of, text_of = read_classes()
if config.document_digest == digest then
  local unassigned = 0
  for _, class in ipairs(numbers) do
    unassigned = unassigned + (pool_of[class] == '' and class_nodes(class) or 0)
  end
  return { 'UNCHANGED', config.version, config.version, digits(document_version), digits(unassigned), '0', '0' }
end
if expect_version >= 0 and expect_version ~= document_version then
  return { 'CONFLICT', digits(document_version) }
end
if #wanted == 0 and tonumber(config.declared_pools) > 0 and allow_empty == '0' then
  return { 'EMPTY', config.declared_pools }
end
local before = decode_pools(read_pools(cjson.decode(config.auto)))

local function earlier(left, right)
  if left.priority ~= right.priority then
    return left.priority > right.priority
  end
  if left.constraints ~= right.constraints then
    return left.constraints > right.constraints
  end
  return left.order < right.order
end
table.sort(wanted, earlier)
local next_pool = tonumber(config.next_pool)
local after = { pools = {}, declared = {}, auto = auto, autos = 0 }
local changes, created, removed = {}, {}, {}

-- cjson keeps no order of keys, so rules are compared member by member.
local function equal(left, right)
  if type(left) ~= 'table' or type(right) ~= 'table' then
    return left == right
  end
  for key, item in pairs(left) do
    if not equal(item, right[key]) then
      return false
    end
  end
  for key in pairs(right) do
    if left[key] == nil then
      return false
    end
  end
  return true
end

for rank, pool in ipairs(wanted) do
  local old = before.pools[pool.name]
  local kept = {
    name = pool.name, origin = 'declared', priority = pool.priority, rank = rank, match = pool.match,
    selection = pool.selection, created_at = old and old.created_at or now,
  }
  if old then
    kept.id = old.id
    if old.origin ~= 'declared' or old.priority ~= pool.priority or not equal(old.match, pool.match)
      or not equal(old.selection or NOTHING, pool.selection or NOTHING) then
      changes[#changes + 1] = { pool = pool.name, change = 'changed' }
    end
  else
    kept.id = next_pool
    next_pool = next_pool + 1
    changes[#changes + 1] = { pool = pool.name, change = 'added' }
    created[#created + 1] = kept
  end
  after.pools[pool.name] = kept
  after.declared[rank] = kept
end
for name, pool in pairs(before.pools) do
  if pool.origin == 'auto' and not in_document[name] then
    after.pools[name] = pool
    after.autos = after.autos + 1
  end
end

-- Every class, under the pools that there will be.
index_rules(after)
local classes, waiting, texts = {}, {}, {}
for place, class in ipairs(numbers) do
  local offset = (place - 1) % FACTS_AT_ONCE
  if offset == 0 then
    texts = redis.call('HMGET', CLASS_FACTS, unpack(numbers, place, math.min(place + FACTS_AT_ONCE - 1, #numbers)))
  end
  local facts = unread_facts(texts[offset + 1] or '{}')
  local to, reason, set_name = place_by_index(after, facts)
  local from = pool_of[class]
  if to ~= from then
    -- Only these are counted: that costs more the more nodes there are.
    local nodes = class_nodes(class)
    local entry = { class = text_of[class], from = from, to = to or '', nodes = nodes, nodes_text = digits(nodes) }
    if reason == 'no_pool' then
      entry.name, entry.languages = set_name, languages_of(facts)
      waiting[#waiting + 1] = entry
    end
    classes[#classes + 1] = entry
  end
end
-- A class that loses its pool gets an auto pool in this very step, so that a live node is never without one in between.
for _, group in ipairs(grant_auto_pools(auto, waiting, after.autos)) do
  local old = before.pools[group.name]
  local pool = new_auto_pool(old and old.id or next_pool, group.name, group.languages, old and old.created_at or now)
  if old then
    changes[#changes + 1] = { pool = pool.name, change = 'changed' }
  else
    next_pool = next_pool + 1
    changes[#changes + 1] = { pool = pool.name, change = 'added' }
    created[#created + 1] = pool
  end
  after.pools[pool.name] = pool
  for _, entry in ipairs(group.classes) do
    entry.to = pool.name
  end
end
for name in pairs(before.pools) do
  if not after.pools[name] then
    removed[#removed + 1] = name
  end
end
table.sort(removed)
for _, name in ipairs(removed) do
  changes[#changes + 1] = { pool = name, change = 'removed' }
end

local moves, unassigned, lost_ready = {}, 0, 0
for _, entry in ipairs(classes) do
  if entry.to ~= entry.from then
    moves[#moves + 1] = entry
    if entry.to == '' then
      local class = tonumber(entry.class)
      lost_ready = lost_ready + ready_count(class)
    end
  end
  if entry.to == '' then
    unassigned = unassigned + entry.nodes
  end
end

local new_version = version + 1
local function reply()
  local flat = { 'OK', config.version, digits(new_version), digits(new_version), digits(unassigned), digits(#changes) }
  for _, change in ipairs(changes) do
    flat[#flat + 1] = change.pool
    flat[#flat + 1] = change.change
  end
  flat[#flat + 1] = digits(#moves)
  local last = #flat
  for _, move in ipairs(moves) do
    flat[last + 1], flat[last + 2], flat[last + 3], flat[last + 4] = move.class, move.from, move.to, move.nodes_text
    last = last + 4
  end
  return flat
end

if force == '0' and lost_ready > 0 and lost_ready * 1000 > guard.max_unassigned_permille * total_ready then
  return { 'GUARD', digits(lost_ready), digits(total_ready), digits(guard.max_unassigned_permille) }
end
if not history_accepts(new_version) then
  return redis.error_reply('PYSCHED_CORRUPT the history is ahead of the config version ' .. config.version)
end
if mode == 'plan' then
  return reply()
end
local packed_pools, packed_classes = {}, {}
for name, pool in pairs(after.pools) do
  if pool ~= before.pools[name] then
    packed_pools[#packed_pools + 1] = name
    packed_pools[#packed_pools + 1] = encode_pool(pool)
  end
end
for _, move in ipairs(moves) do
  packed_classes[#packed_classes + 1] = move.class
  packed_classes[#packed_classes + 1] = move.to
end
local auto_json, selection_json = cjson.encode(auto), cjson.encode(selection)
local packed_rules, former_tenants = {}, {}
for name, rule in pairs(rules) do
  packed_rules[#packed_rules + 1] = name
  packed_rules[#packed_rules + 1] = rule
end
for index = 1, #former_rules, 2 do
  if not rules[former_rules[index]] then
    former_tenants[#former_tenants + 1] = former_rules[index]
  end
end

local no_permission = denied('HSET', 'HDEL', 'XADD')
if no_permission then
  return no_permission
end

-- Write.
bulk('HDEL', POOLS, removed)
bulk('HSET', POOLS, packed_pools)
bulk('HSET', CLASSES, packed_classes)
bulk('HDEL', TENANT_RULES, former_tenants)
bulk('HSET', TENANT_RULES, packed_rules)
redis.call(
  'HSET', CONFIG, 'version', digits(new_version), 'document_version', digits(new_version), 'document', document_json,
  'document_digest', digest, 'auto', auto_json, 'admission', admission, 'selection', selection_json,
  'admission_digest', string.sub(redis.sha1hex(admission), 1, 16), 'declared_pools', digits(#wanted), 'next_pool', digits(next_pool),
  'updated_at', digits(now), 'updated_by', author
)
record_history(now, new_version, kind, author, why, changes, document_json)
for _, name in ipairs(removed) do
  emit(
    now, new_version, 'pool.removed', 'pool', name, 'pool_id', digits(before.pools[name].id), 'origin', before.pools[name].origin,
    'reason', kind
  )
end
for _, pool in ipairs(created) do
  emit(now, new_version, 'pool.created', 'pool', pool.name, 'pool_id', digits(pool.id), 'origin', pool.origin, 'reason', kind)
end
for _, move in ipairs(moves) do
  emit(
    now, new_version, 'class.remapped', 'class', move.class, 'from', move.from, 'to', move.to, 'nodes', move.nodes_text,
    'reason', kind
  )
end
emit(now, new_version, 'config.bumped', 'author', author, 'kind', kind, 'digest', digest, 'reason', why)
return reply()
