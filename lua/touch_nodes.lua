#!lua flags=allow-oom
-- The hot path: unchanged heartbeats of many nodes. One comparison of tokens, one write of leases, and, where load or usage changed,
-- one of each. A node whose token differs is left untouched and said to be so. Takes no memory that the node does not have already,
-- so it runs while memory is full: a fleet must not lapse because a store is crowded.
--
-- KEYS
--   1 config    hash
--   2 sessions  hash
--   3 leases    zset
--   4 ready     zset
--   5 usage     hash
--   6 reserved  hash
-- ARGV
--   1 lease_ms  1..86400000
--   2.. nodes   1..500 times: node_id, token, usage (the load, 0.0000..1.0000, and, with a space before it, a JSON object of up to
--               4096 bytes; the load alone = the rest is unchanged; empty = all of it is)
-- REPLY
--   OK version letters
--     one letter a node, in order: A alive; S stale: the session is over; U unknown: the store lost the node, or a newer state of
--     this session than it holds, or took its instance for dead, so the caller registers it again
--   NO_NAMESPACE | SCHEMA found
-- EVENTS none
-- COST O(nodes of the call * log n)

local CONFIG, SESSIONS, LEASES, READY, USAGE, RESERVED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
--@include lib/limits.lua
--@include lib/clock.lua
--@include lib/args.lua
--@include lib/permissions.lua
--@include lib/namespace.lua
--@include lib/tokens.lua
--@include lib/usage.lua
--@include lib/ready.lua
--@include lib/bulk.lua

local ARGV, match = ARGV, string.match

local lease_ms = integer(ARGV[1], 1, 86400000)
local count = (#ARGV - 1) / 3
if #KEYS ~= 6 or count < 1 or count > MAX_BATCH or count ~= math.floor(count) then
  return badarg('touch_nodes takes 6 keys, a lease and 1..500 times three arguments')
end
if not lease_ms then
  return badarg('lease_ms must be 1..86400000')
end
local ids, loads, loaded, count_loaded, silent = {}, {}, {}, 0, {}
for index = 1, count do
  local at = index * 3 - 1
  local id, usage = ARGV[at], ARGV[at + 2]
  ids[index] = id
  if id == '' then
    return badarg('node_id')
  end
  if usage ~= '' then
    local load, object_begins = match(usage, '^([01]%.%d%d%d%d)(.?.?)')
    load = load and load + 0
    if not load or load > 1 then
      return badarg('usage must begin with a load of 0.0000..1.0000, or be empty')
    end
    count_loaded = count_loaded + 1
    loads[index], loaded[count_loaded] = load, id
    if object_begins == '' then
      silent[#silent + 1] = id
    elseif object_begins ~= ' {' or #usage > LOAD_WIDTH + MAX_USAGE_BYTES then
      return badarg('usage must go on with a JSON object of up to ' .. MAX_USAGE_BYTES .. ' bytes, or be a load alone')
    end
  end
end

local config, refusal = read_config('version')
if not config then
  return refusal
end
local lease_end = digits(now_ms() + lease_ms)
local tokens = redis.call('HMGET', SESSIONS, unpack(ids))
local reserved = count_loaded > 0 and redis.call('HMGET', RESERVED, unpack(loaded))
redis.call('ZCARD', LEASES)
redis.call('ZCARD', READY)
redis.call('HLEN', USAGE)

-- Usage of the nodes that report a load alone: what is stored, or what an earlier entry of this call gives them.
local usage_of = {}
for place, stored in ipairs(#silent > 0 and redis.call('HMGET', USAGE, unpack(silent)) or {}) do
  usage_of[silent[place]] = usage_json(stored)
end

-- The verdict on a token that is not the stored one.
local function mismatch(stored, shown)
  local holder, caller = parse_token(stored), parse_token(shown)
  if not holder then
    return 'U'
  end
  if not caller or holder.epoch > caller.epoch or (holder.epoch == caller.epoch and holder.status == 'o') then
    return 'S'
  end
  return 'U'
end

local letters, leases, alive = {}, {}, 0
-- XX: a node that is not ready, or is held, stays out of `ready`.
local ready, usages, changed, place = { 'XX' }, {}, 0, 0
for index = 1, count do
  local at = index * 3 - 1
  local id, token, load = ids[index], tokens[index], loads[index]
  if load then
    place = place + 1
  end
  if token ~= ARGV[at + 1] then
    -- Whose token is the stored one has an id that was let in when it was stored.
    if not is_id(id, 128) then
      return badarg('node_id')
    end
    letters[index] = mismatch(token, ARGV[at + 1])
  else
    letters[index] = 'A'
    alive = alive + 2
    leases[alive - 1], leases[alive] = lease_end, id
    if load then
      local class, usage, slots = match(token, '^%d+:(%d+):'), ARGV[at + 2], reserved[place]
      if #usage < LOAD_WIDTH then
        usage = usage .. ' ' .. usage_of[id]
      elseif usage_of[id] then
        usage_of[id] = usage_json(usage)
      end
      changed = changed + 2
      ready[changed], ready[changed + 1] = ready_score(class, slots and used_slots(slots) or 0, load), id
      usages[changed - 1], usages[changed] = id, usage
    end
  end
end

local no_permission = denied('ZADD', 'HSET')
if no_permission then
  return no_permission
end

bulk('ZADD', LEASES, leases)
if changed > 0 then
  redis.call('ZADD', READY, unpack(ready))
end
bulk('HSET', USAGE, usages)
return { 'OK', config.version, table.concat(letters) }
