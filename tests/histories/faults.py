"""Faults to plant in the scripts, each one that a careless change could make."""

from __future__ import annotations

from pyscheduler.scripts.loader import lua_directory


def altered(name: str, old: str, new: str) -> dict[str, str]:
    """An override of a script, with one place changed."""
    text = (lua_directory() / name).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has changed: {old!r} is there {text.count(old)} times"
    return {name: text.replace(old, new)}


UPSERT, TOUCH, RELEASE, HOLD = "upsert_node_to_pool.lua", "touch_nodes.lua", "release_node.lua", "hold_node.lua"
BUMP, RECONCILE = "bump_config_version.lua", "reconcile.lua"

EPOCH = "epoch = math.max(now, tonumber(config.epoch_floor) + 1, previous and previous.epoch + 1 or 0)"

FAULTS: dict[str, dict[str, str]] = {
    "heartbeats are not fenced": altered(TOUCH, "if token ~= ARGV[at + 1] then", "if not token then"),
    "a heartbeat makes a held node ready": altered(TOUCH, "{ 'XX' }", "{ 'CH' }"),
    "an update is not fenced": altered(
        UPSERT, "if previous.epoch ~= asked_epoch or previous.status == 'o' then", "if previous.status == 'o' then"
    ),
    "an epoch is given twice": altered(UPSERT, EPOCH, EPOCH.replace("previous.epoch + 1", "previous.epoch")),
    "the epoch of an expired node is forgotten": altered(UPSERT, EPOCH, EPOCH.replace("config.epoch_floor", "0")),
    "a change of status has no event": altered(UPSERT, "elseif previous.status ~= status then", "elseif false then"),
    "a takeover is not refused": altered(UPSERT, "if takeover == '0' then", "if false then"),
    "an update keeps the old facts": altered(
        UPSERT, "local class_changed = not previous or previous.class ~= class", "local class_changed = not previous"
    ),
    "the pools of the policy are not counted": altered(
        "lib/waiting.lua", "if autos >= auto.max_pools then", "if false then"
    ),
    "a waiting class is not remapped": altered(
        UPSERT,
        "for _, entry in ipairs(waiting) do\n    redis.call('HSET', CLASSES, entry.class, pool)",
        "for at, entry in ipairs(waiting) do\n    redis.call('HSET', CLASSES, entry.class, at == 2 and '' or pool)",
    ),
    "a released node is no member": altered(
        RELEASE,
        "redis.call('ZREM', READY, node_id)",
        "redis.call('ZREM', string.gsub(READY, 'ready$', 'members'), node_id)",
    ),
    "a released node takes work": altered(RELEASE, "redis.call('ZREM', READY, node_id)", ""),
    "a late release ends the newer session": altered(RELEASE, "if session.epoch ~= epoch then", "if false then"),
    "a release lengthens the lease": altered(
        RELEASE, "digits(math.min(lease_end, now + grace_ms))", "digits(now + grace_ms)"
    ),
    "one lift lifts all": altered(
        HOLD, "local held = operation == 'set' or count > 0", "local held = operation == 'set'"
    ),
    "a lifted node is ready whatever it says": altered(
        HOLD, "if session and session.status == 'r' then", "if session then"
    ),
    "a sync remaps the first class alone": altered(
        BUMP, "bulk('HSET', CLASSES, packed_classes)", "bulk('HSET', CLASSES, { packed_classes[1], packed_classes[2] })"
    ),
    "a sync gives numbers again": altered(BUMP, "'next_pool', digits(next_pool)", "'next_pool', config.next_pool"),
    "a sync forgets the auto pools": altered(
        BUMP, "if pool.origin == 'auto' and not in_document[name] then", "if false then"
    ),
    "a dry run counts otherwise": altered(
        BUMP, "if mode == 'plan' then\n", "if mode == 'plan' then\n  unassigned = 0\n"
    ),
    "a dry run writes": altered(
        BUMP,
        "if mode == 'plan' then\n",
        "if mode == 'plan' then\n  redis.call('HSET', CONFIG, 'updated_by', author .. '!')\n",
    ),
    "a document that is removed has no event": altered(
        BUMP, "for _, name in ipairs(removed) do\n  emit(", "for _, name in ipairs({}) do\n  emit("
    ),
    "a lease ends a second early": altered(
        RECONCILE, "'-inf', digits(now), 'LIMIT'", "'-inf', digits(now + 1000), 'LIMIT'"
    ),
    "an outage is not noticed": altered(RECONCILE, "suspended_until = now + lease_ms", "suspended_until = 0"),
    "the brake does not act": altered(RECONCILE, "local allowed = braked and", "local allowed = false and"),
    "an expired node leaves its usage": altered(
        RECONCILE, "ipairs({ SESSIONS, NODES, USAGE })", "ipairs({ SESSIONS, NODES })"
    ),
    "a class that is used is dropped": altered(
        RECONCILE, "elseif nodes_left(class) < 1 then", "elseif nodes_left(class) < 2 then"
    ),
    "an idle pool goes at once": altered(RECONCILE, "now - pool.idle_since >= auto.idle_ttl_ms", "true"),
    "the leases of a clock that went back are not cut": altered(
        RECONCILE, "if went_back then\n  local too_long", "if false then\n  local too_long"
    ),
    "a pool that is removed by upkeep has no event": altered(
        RECONCILE,
        "emit(now, new_version, 'pool.removed'",
        "local _ = (now == 0) and emit(now, new_version, 'pool.removed'",
    ),
    "the history misses what upkeep does": altered(
        RECONCILE,
        "  record_history(now, new_version, kind, 'reconcile'",
        "  local _ = now == 0 and record_history(now, new_version, kind, 'reconcile'",
    ),
}
"""Name -> override of the scripts."""

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
