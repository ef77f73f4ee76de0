"""Faults to plant in the scripts, each one that a careless change could make."""

from __future__ import annotations

from tests.cells import altered_script

UPSERT, TOUCH, RELEASE, HOLD = "upsert_node_to_pool.lua", "touch_nodes.lua", "release_node.lua", "hold_node.lua"
BUMP, RECONCILE = "bump_config_version.lua", "reconcile.lua"

FENCE = "lib/fence.lua"
RESERVE, SELECTING, ROUTES, LEDGER = "reserve_slots.lua", "lib/selecting.lua", "lib/routes.lua", "lib/ledger.lua"
OWNERS, UPKEEP, CHANCE = "update_jobs.lua", "lib/upkeep_of_jobs.lua", "lib/chance.lua"

EPOCH = "node.epoch = math.max(now, floor + 1, previous and previous.epoch + 1 or 0)"

FAULTS: dict[str, tuple[str, str, str]] = {
    "heartbeats are not fenced": (TOUCH, "if token ~= ARGV[at + 1] then", "if not token then"),
    "a heartbeat makes a held node ready": (TOUCH, "{ 'XX' }", "{ 'CH' }"),
    "an update is not fenced": (
        FENCE,
        "if previous.epoch ~= node.asked_epoch or previous.status == 'o' then",
        "if previous.status == 'o' then",
    ),
    "an epoch is given twice": (FENCE, EPOCH, EPOCH.replace("previous.epoch + 1", "previous.epoch")),
    "the epoch of an expired node is forgotten": (FENCE, EPOCH, EPOCH.replace("floor + 1", "1")),
    "a change of status has no event": (UPSERT, "elseif previous.status ~= node.status then", "elseif false then"),
    "a takeover is not refused": (FENCE, "if node.takeover == '0' then", "if false then"),
    "an update keeps the old facts": (
        UPSERT,
        "node.changes_class = not previous or previous.class ~= number",
        "node.changes_class = not previous",
    ),
    "the pools of the policy are not counted": ("lib/waiting.lua", "if autos >= auto.max_pools then", "if false then"),
    "a waiting class is not remapped": (
        UPSERT,
        "for _, entry in ipairs(waiting) do\n        redis.call('HSET', CLASSES, entry.class, pool)",
        "for at, entry in ipairs(waiting) do\n        redis.call('HSET', CLASSES, entry.class, at == 2 and '' or pool)",
    ),
    "a released node is no member": (
        RELEASE,
        "redis.call('ZREM', READY, node_id)",
        "redis.call('ZREM', string.gsub(READY, 'ready$', 'members'), node_id)",
    ),
    "a released node takes work": (RELEASE, "redis.call('ZREM', READY, node_id)", ""),
    "a late release ends the newer session": (RELEASE, "if session.epoch ~= epoch then", "if false then"),
    "a release lengthens the lease": (RELEASE, "digits(math.min(lease_end, now + grace_ms))", "digits(now + grace_ms)"),
    "one lift lifts all": (HOLD, "local held = operation == 'set' or count > 0", "local held = operation == 'set'"),
    "a lifted node is ready whatever it says": (HOLD, "if session and session.status == 'r' then", "if session then"),
    "a sync remaps the first class alone": (
        BUMP,
        "bulk('HSET', CLASSES, packed_classes)",
        "bulk('HSET', CLASSES, { packed_classes[1], packed_classes[2] })",
    ),
    "a sync gives numbers again": (BUMP, "'next_pool', digits(next_pool)", "'next_pool', config.next_pool"),
    "a sync forgets the auto pools": (BUMP, "if pool.origin == 'auto' and not in_document[name] then", "if false then"),
    "a dry run counts otherwise": (BUMP, "if mode == 'plan' then\n", "if mode == 'plan' then\n  unassigned = 0\n"),
    "a dry run writes": (
        BUMP,
        "if mode == 'plan' then\n",
        "if mode == 'plan' then\n  redis.call('HSET', CONFIG, 'updated_by', author .. '!')\n",
    ),
    "a document that is removed has no event": (
        BUMP,
        "for _, name in ipairs(removed) do\n  emit(",
        "for _, name in ipairs({}) do\n  emit(",
    ),
    "a lease ends a second early": (RECONCILE, "'-inf', digits(now), 'LIMIT'", "'-inf', digits(now + 1000), 'LIMIT'"),
    "an outage is not noticed": (RECONCILE, "suspended_until = now + lease_ms", "suspended_until = 0"),
    "the brake does not act": (RECONCILE, "local allowed = braked and", "local allowed = false and"),
    "an expired node leaves its usage": (
        RECONCILE,
        "ipairs({ SESSIONS, NODES, USAGE })",
        "ipairs({ SESSIONS, NODES })",
    ),
    "a class that is used is dropped": (
        RECONCILE,
        "if nodes_left(class) < 1 then",
        "if nodes_left(class) < 2 then",
    ),
    "an idle pool goes at once": (RECONCILE, "now - idle_since >= auto.idle_ttl_ms", "true"),
    "the leases of a clock that went back are not cut": (
        RECONCILE,
        "if went_back then\n  local too_long",
        "if false then\n  local too_long",
    ),
    "a pool that is removed by upkeep has no event": (
        RECONCILE,
        "emit(now, new_version, 'pool.removed'",
        "local _ = (now == 0) and emit(now, new_version, 'pool.removed'",
    ),
    "the history misses what upkeep does": (
        RECONCILE,
        "  record_history(now, new_version, kind, 'reconcile'",
        "  local _ = now == 0 and record_history(now, new_version, kind, 'reconcile'",
    ),
    # --- what owners say of their jobs ---
    "anybody speaks for a job": (OWNERS, "if owner ~= job.owner then", "if false then"),
    "an older attempt is obeyed": (OWNERS, "if attempt < job.attempt then", "if false then"),
    "an attempt to come is obeyed": (OWNERS, "if attempt > job.attempt then", "if false then"),
    "a job that has ended is ended otherwise": (OWNERS, "if job.state ~= to then", "if false then"),
    "a start does not renew": (
        OWNERS,
        "put_job(job_id, job, now + lease_ms)",
        "changed_jobs[job_id] = true; do return { 'OK', 'running', digits(now + lease_ms) } end",
    ),
    # --- what is reserved ---
    "a slot is not given back": (LEDGER, "add_slots(job, -job.slots)", "add_slots(job, 0)"),
    "a tenant's slots are not given back": (
        LEDGER,
        "math.max(tenant.used + slots, 0), true",
        "math.max(tenant.used + math.max(slots, 0), 0), true",
    ),
    "a place in ready does not follow the slots": (LEDGER, "if node.used ~= node.before then", "if false then"),
    "the end of a job makes its node ready": (LEDGER, "'ZADD', READY, 'XX', 'INCR'", "'ZADD', READY, 'INCR'"),
    "a node keeps the name of a job that has ended": (LEDGER, "if first then", "if false then"),
    "what becomes of a job has no event": (LEDGER, "in ipairs(happened) do", "in ipairs({}) do"),
    "an ended job is forgotten at once": (
        LEDGER,
        "put_job(job_id, job, now + JOB_KEPT_MS)",
        "put_job(job_id, job, now)",
    ),
    # --- how a job gets its node ---
    "quotas are not asked": (RESERVE, "if rule.slots > 0 and others + job.slots > rule.slots then", "if false then"),
    "a quota counts the attempt that is given back": (
        RESERVE,
        "(gives_back and old.tenant == job.tenant and old.slots or 0)",
        "0",
    ),
    "an attempt that is repeated reserves again": (
        RESERVE,
        "elseif job.attempt == old.attempt then",
        "elseif false then",
    ),
    "a repeated attempt may be anybody's": (RESERVE, "if job.owner ~= old.owner then", "if false then"),
    "a repeated attempt may want something else": (
        RESERVE,
        "elseif job.digest ~= old.digest then",
        "elseif false then",
    ),
    "an older attempt reserves": (RESERVE, "if job.attempt < old.attempt then", "if false then"),
    "attempts are left out": (RESERVE, "elseif job.attempt > old.attempt + 1 then", "elseif false then"),
    "a finished job gets a node": (RESERVE, "elseif old.state == 'f' then", "elseif false then"),
    "a job goes back to the node that failed": (RESERVE, "job.excluded[old.node] = true", ""),
    "the attempt before keeps its slots": (RESERVE, "end_job(job.job_id, old, 'x', 'reassigned', now)", ""),
    "what is planned is reserved": (
        RESERVE,
        "if job.mode == 'reserve' then\n    if gives_back",
        "if true then\n    if gives_back",
    ),
    "a full node is chosen": (
        SELECTING,
        "local run, capacity, most = look.run, look.capacity, look.capacity - job.slots",
        "local run, capacity, most = look.run, look.capacity, math.huge",
    ),
    "a call does not see what it has reserved": (SELECTING, "used_now[node_id] = used\n", ""),
    "a dead node is chosen": (SELECTING, "if not is_alive(ends[index], now) then", "if false then"),
    "what a node reports is not its load": (
        SELECTING,
        "place and max(load, used / capacity)",
        "place and used / capacity",
    ),
    "a route of another configuration is followed": (
        ROUTES,
        "if found ~= tag then",
        "if not stored then",
    ),
    "a private node gets public jobs": (ROUTES, "is_public and facts.private and 'not_public'", "false"),
    "labels are not asked": (ROUTES, "if facts.labels[label] ~= value then", "if false then"),
    "the scope is not asked": (ROUTES, "scope == 'exact' and not is_exact and 'scope'", "false"),
    "pools are tried in another order": (ROUTES, "if left.exact ~= right.exact then", "if false then"),
    "auto pools come first": (ROUTES, "return left.origin == 'declared'", "return left.origin == 'auto'"),
    "the voice is not asked": ("lib/capabilities.lua", "if service == 'tts' then", "if false then"),
    "the node of a session is not found again": (
        CHANCE,
        "if score and is_alive(redis.call('ZSCORE', LEASES, node_id), now) then",
        "if false then",
    ),
    "a session is sent to a node that is full": (
        CHANCE,
        "if used + job.slots > capacity or job.excluded[node_id] then",
        "if job.excluded[node_id] then",
    ),
    # --- what becomes of it ---
    "a reservation goes on without its node": (UPKEEP, "lose(job_id, 'node_expired', now)", ""),
    "a lease of a job does not lapse": (UPKEEP, "end_job(name, job, 'e', 'lease_lapsed', now)", ""),
    "an ended job is never forgotten": (UPKEEP, "forget_job(name)", ""),
    "a live job is forgotten": (UPKEEP, "elseif not job or lease_end_of(name) <= now then", "end\n      if true then"),
    "a session's node is remembered for ever": (
        UPKEEP,
        "affinities_gone[#affinities_gone + 1], settled[#settled + 1] = string.sub(name, 2), name",
        "settled[#settled + 1] = name",
    ),
    "reservations outlive a new session that loses them": (UPKEEP, "lose(job_id, 'new_epoch', now)", ""),
    "what the newest session has reserved is lost": (
        UPKEEP,
        "tonumber(job.epoch) < session.epoch then",
        "tonumber(job.epoch) <= session.epoch then",
    ),
    "reservations outlive a hold that loses them": (UPKEEP, "lose(job_id, 'drained', now)", ""),
    "a hold that was lifted loses reservations": (
        UPKEEP,
        "policy.on_drain == 'lose' and held",
        "policy.on_drain == 'lose'",
    ),
    "a new session is not marked": (UPSERT, "pair(due, now, '!' .. id)", "pair({}, now, '!' .. id)"),
    "a hold is not marked": (HOLD, "redis.call('ZADD', DUE, digits(now), '!' .. node_id)", ""),
    "a held node is chosen": (HOLD, "redis.call('ZREM', READY, node_id)", ""),
    "a lift forgets the slots": (HOLD, "ready_score(session.class, used, load)", "ready_score(session.class, 0, load)"),
    "a registration forgets the slots": (
        UPSERT,
        "ready_score(number, node.used, node.load)",
        "ready_score(number, 0, node.load)",
    ),
    "a load forgets the slots": (
        TOUCH,
        "ready_score(class, slots and used_slots(slots) or 0, load)",
        "ready_score(class, 0, load)",
    ),
    "an outage ends reservations": (
        RECONCILE,
        "if suspended_ms == 0 then\n  reservations.settle_due",
        "if true then\n  reservations.settle_due",
    ),
}
"""What is wrong -> the script, a place in it, and what stands there instead."""

QUICK = (
    "an epoch is given twice",
    "the epoch of an expired node is forgotten",
    "a change of status has no event",
    "a released node is no member",
    "a released node takes work",
    "heartbeats are not fenced",
    "a sync gives numbers again",
    "one lift lifts all",
    "anybody speaks for a job",
    "a slot is not given back",
    "a full node is chosen",
    "a node keeps the name of a job that has ended",
)
"""Those that are found within some hundred steps."""


def planted(fault: str) -> dict[str, str]:
    """An override of the scripts with the fault in it."""
    return altered_script(*FAULTS[fault])
