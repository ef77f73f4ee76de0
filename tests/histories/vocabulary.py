"""What nodes and operators may say in a random history.

Few words, made to meet: most of what could be drawn freely would have nothing to do with anything else.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pyscheduler import Facts, JobRequest, NodeReport
from pyscheduler.core.results import NodeStatus
from tests.harness import document_of, pool

NODES = ("a", "b", "c", "d")
OWNERS = ("ops", "autoscaler")
LANGUAGES = ("de", "en", "zh-cn")

FACTS = (
    Facts(semantic=("en",), asr=("en",), services=("asr",)),
    Facts(semantic=("en",), asr=("en",), services=("asr",), gpu_memory_gb=(24, 24)),
    Facts(semantic=("en",), asr=("en",), gpu_memory_gb=(8,)),
    Facts(semantic=("en",), labels={"zone": "eu"}, services=("asr", "tts"), tts=("en",)),
    Facts(semantic=("en", "zh-cn"), asr=("en",), services=("asr", "tts"), tts=("zh-cn",), gpu_memory_gb=(24,)),
    Facts(semantic=("en", "zh-cn"), asr=("zh-cn",), services=("asr",), labels={"origin": "auto"}),
    Facts(semantic=("de", "en"), asr=("de", "en"), services=("asr",)),
    Facts(tts=("de",), asr=("en",), services=("asr",)),
    Facts(asr=("de",), services=("asr",)),
    Facts(services=("asr",), gpu_memory_gb=(8, 8)),
    Facts(),
    Facts(semantic=("en",), asr=("en",), services=("asr",), private=True),
)
ABLE = FACTS[4]
"""Facts of a node that can do most of what jobs ask for."""
ENGLISH = (FACTS[0], FACTS[1], ABLE, FACTS[6], FACTS[-1])
"""Facts of nodes that can all take a job from English to English, in several pools."""
ONE_LANGUAGE = FACTS[:4]
"""Facts that are different classes, and name the same auto pool."""

RULES: tuple[dict[str, Any], ...] = (
    {"semantic": {"exact": ["en"]}},
    {"semantic": {"exact": ["en", "zh-cn"]}},
    {"semantic": {"contains": ["en"]}},
    {"semantic": {"contains": ["en"]}, "services": ["asr"]},
    {"semantic": {"any": ["de", "zh-cn"]}},
    {"asr": {"any": ["de", "en"]}, "labels": {"zone": "eu"}},
    {"asr": {"contains": ["en"]}},
    {"tts": {"contains": ["de"]}},
    {"services": ["asr"]},
    {"services": ["asr", "tts"]},
    {"gpu": {"min_count": 1}},
    {"gpu": {"min_count": 2}},
    {"gpu": {"min_memory_gb": 16}},
    {"labels": {"zone": "eu"}},
    {"labels": {"origin": "auto"}},
)

loads = st.sampled_from([0.0, 0.25, 1.0])
reports = st.builds(
    NodeReport.of,
    st.sampled_from(FACTS),
    status=st.sampled_from([NodeStatus.READY, NodeStatus.READY, NodeStatus.REGISTERING, NodeStatus.DEGRADED]),
    load=loads,
    record=st.sampled_from([{}, {"name": "x"}]),
)
pools = st.builds(
    lambda name, priority, match: pool(name, priority=priority, **match),
    # Some are names that auto pools would take.
    st.sampled_from(["one", "two", "three", "en", "de", "en-zh_cn"]),
    st.sampled_from([0, 0, 1]),
    st.sampled_from(RULES),
)
fates = st.sampled_from(["keep", "lose"])
selections = st.fixed_dictionaries(
    {
        "slots_per_node": st.sampled_from([4, 4, 2]),
        "strategy": st.sampled_from(["least_loaded", "power_of_two", "random", "affinity", "affinity"]),
        "scope": st.sampled_from(["eligible", "eligible", "eligible", "exact"]),
        "on_new_epoch": fates,
        "on_drain": fates,
        "tenant_slots": st.sampled_from([0, 4, 4]),
    }
)
documents = st.builds(
    lambda declared, auto, share, selection: document_of(
        *declared, auto=auto, guard={"max_unassigned_share": share}, selection=selection
    ),
    st.lists(pools, max_size=3, unique_by=lambda one: one["name"]),
    st.fixed_dictionaries(
        {
            "enabled": st.sampled_from([True, True, True, False]),
            "require_services": st.sampled_from([[], [], ["asr"]]),
            "min_nodes": st.sampled_from([1, 1, 2, 3]),
            "max_pools": st.sampled_from([0, 1, 2, 9]),
            "idle_ttl": st.sampled_from(["1s", "60s"]),
        }
    ),
    st.sampled_from([0.0, 0.5, 1.0]),
    selections,
)
requests = st.builds(
    lambda pair, slots, tenant, session, services, labels: JobRequest(
        pair[0], pair[1], slots=slots, tenant=tenant, session=session, services=services, labels=labels
    ),
    # Most of them are for what most nodes can do.
    st.sampled_from([("en", "en"), ("en", "en"), ("en", "en"), ("en", "zh-cn"), ("de", "en"), ("zh-cn", "en")]),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.sampled_from(["", "acme"]),
    st.sampled_from(["", "talk", "talk"]),
    st.sampled_from([(), (), ("asr",), ("asr", "tts")]),
    st.sampled_from([{}, {}, {}, {"zone": "eu"}]),
)
