"""Faults to plant in the scripts, each one that a careless change could make."""

from __future__ import annotations

from tests.cells import altered_script

UPSERT, TOUCH, RELEASE, HOLD = "upsert_node_to_pool.lua", "touch_nodes.lua", "release_node.lua", "hold_node.lua"
BUMP, RECONCILE = "bump_config_version.lua", "reconcile.lua"

FENCE = "lib/fence.lua"

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
)
"""Those that are found within some hundred steps."""


def planted(fault: str) -> dict[str, str]:
    """An override of the scripts with the fault in it."""
    return altered_script(*FAULTS[fault])
