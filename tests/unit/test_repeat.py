"""A repeat of a heartbeat is read as the whole of it would be, or not as a repeat at all."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from pyscheduler.core.limits import MAX_REPEATED_CHARS, MAX_USAGE_BYTES
from pyscheduler.core.profile import usage_of
from pyscheduler.core.protocol import FrameError, NodeHeartbeat, ResourceUsage, parse_frame
from pyscheduler.core.repeat import Repeat, RepeatedUsage
from tests.fixtures.clients import HEAD

MESSAGE = HEAD.heartbeat("node-1")
TEXT = json.dumps(MESSAGE)


def learned(text: str = TEXT) -> Repeat | None:
    return Repeat.of(text, parse_frame(text))


def read(text: str, repeat: Repeat | None = None) -> tuple[RepeatedUsage, str] | None:
    repeat = repeat or learned()
    assert repeat is not None
    told = repeat.read(text)
    return None if told is None else (told[0], told[1]())


def with_usage(usage: str) -> str:
    found, count = re.subn(r'(?<="resource_usage": )\{[^}]*\}', lambda _: usage, TEXT)
    assert count == 1
    return found


def agrees(text: str, told: tuple[RepeatedUsage, str]) -> bool:
    frame = parse_frame(text)
    assert isinstance(frame.body, NodeHeartbeat)
    usage, usage_json = told
    return asdict(usage) == frame.body.resource_usage.model_dump() and usage_json == usage_of(frame)


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.sampled_from([0, -0.0, 1e16, 1e-7, 1e22, 5e-324, 1e9, 2**32 - 1, 2**32, 10**20]),
)
FIELDS = list(ResourceUsage.model_fields)


def test_a_repeat_has_the_members_of_any_heartbeat() -> None:
    assert sorted(RepeatedUsage.__struct_fields__) == sorted(FIELDS)


@given(
    st.dictionaries(st.sampled_from([*FIELDS, "new"]), NUMBERS),
    st.fixed_dictionaries(dict.fromkeys(FIELDS, st.floats(0, 100))) | st.just({}),
    st.integers(-(10**20), 10**20),
)
def test_whatever_is_read_as_a_repeat_is_read_the_same_as_a_whole(
    some: dict[str, Any], all_: dict[str, Any], timestamp: int
) -> None:
    usage = {**MESSAGE["resource_usage"], **all_, **some}
    text = json.dumps({**MESSAGE, "timestamp": timestamp, "resource_usage": usage})
    told = read(text)
    assert told is None or agrees(text, told)


@given(st.floats(-1e9, 1e9), st.integers(0, 2**32 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_the_same_to_the_last_digit(percent: float, jobs: int, other: float) -> None:
    usage = {"cpu_percent": percent, "mem_percent": other % 100, "gpu_percent": None, "running_jobs": jobs}
    text = with_usage(json.dumps(usage))
    told = read(text)
    assert told is not None
    assert agrees(text, told)


@pytest.mark.parametrize(
    "usage",
    [
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0, "running_jobs": 0}',
        '{"cpu_percent": NaN, "mem_percent": 1, "running_jobs": 0}',
        '{"cpu_percent": 1e999, "mem_percent": 1, "running_jobs": 0}',
        '{"cpu_percent": 01, "mem_percent": 1, "running_jobs": 0}',
        '{"cpu_percent": "1", "mem_percent": 1, "running_jobs": 0}',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": -1}',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 123456789012345678901}',
        '{"cpu_percent": 1, "mem_percent": 1}',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0,}',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0} {}',
        '{"cpu_percent": 1, "mem_percent": 1, "running_jobs": true}',
        "null",
    ],
)
def test_what_is_to_be_refused_is_no_repeat(usage: str) -> None:
    assert read(with_usage(usage)) is None
    with pytest.raises(FrameError):
        parse_frame(with_usage(usage))


@pytest.mark.parametrize(
    "text",
    [
        TEXT + " ",
        TEXT[:-1],
        TEXT.replace("node-1", "node-2"),
        TEXT.replace("asr", "asR"),
        TEXT.replace('"timestamp": 1', '"timestamp": "1"'),
        with_usage('{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0, "temperature": 1}'),
        with_usage('{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0, "x": "\\u0065"}'),
        with_usage('{"cpu_percent": 1, "mem_percent": 1, "running_jobs": 0, "x": {}}'),
        "",
    ],
)
def test_what_differs_elsewhere_is_no_repeat(text: str) -> None:
    assert read(text) is None


def test_a_usage_with_each_of_its_members_is_read() -> None:
    text = with_usage(json.dumps(dict.fromkeys(FIELDS, 1)))
    told = read(text)
    assert told is not None
    assert agrees(text, told)


def test_its_metrics_are_part_of_its_usage_each_time() -> None:
    message = {**MESSAGE, "asr_metrics": {"b": [1.0, None], "a": "é"}, "rerun_metrics": {}, "processing_metrics": None}
    text = json.dumps(message)
    told = read(text, learned(text))
    assert told is not None
    assert agrees(text, told)
    assert json.loads(told[1])["asr_metrics"] == message["asr_metrics"]


def test_metrics_leave_room_for_the_longest_usage() -> None:
    """However long the numbers of a repeat are, its usage is not beyond what is kept."""
    widest = {name: -1.2345678901234567e-300 for name in FIELDS if name not in ("running_jobs", "gpu_queue_length")}
    widest |= {"running_jobs": 2**32 - 1, "gpu_queue_length": 2**32 - 1}

    def with_metrics(size: int) -> str:
        return json.dumps({**MESSAGE, "asr_metrics": {"x": "y" * size}, "processing_metrics": None})

    most = max(size for size in range(MAX_USAGE_BYTES) if learned(with_metrics(size)) is not None)
    longest = with_metrics(most).replace(json.dumps(MESSAGE["resource_usage"]), json.dumps(widest))
    told = read(longest, learned(longest))
    assert told is not None
    assert MAX_USAGE_BYTES - 64 < len(told[1]) <= MAX_USAGE_BYTES
    assert agrees(longest, told)


def test_a_text_as_long_as_is_kept_can_be_repeated() -> None:
    around = len(json.dumps({**MESSAGE, "x": ""}))
    longest, longer = (json.dumps({**MESSAGE, "x": "y" * (MAX_REPEATED_CHARS - around + more)}) for more in (0, 1))
    assert (len(longest), len(longer)) == (MAX_REPEATED_CHARS, MAX_REPEATED_CHARS + 1)
    assert read(longest, learned(longest)) is not None
    assert learned(longer) is None


@pytest.mark.parametrize("usage", [{"x": {}}, {"x": "\\"}, {"x": "\u00e9"}])
def test_one_whose_own_usage_could_be_no_repeat_is_not_kept(usage: dict[str, Any]) -> None:
    assert learned(json.dumps({**MESSAGE, "resource_usage": MESSAGE["resource_usage"] | usage})) is None


def test_what_is_too_long_or_in_another_order_is_not_kept() -> None:
    long = json.dumps({**MESSAGE, "x": "y" * MAX_REPEATED_CHARS})
    turned = json.dumps({name: MESSAGE[name] for name in reversed(MESSAGE)})
    full = json.dumps({**MESSAGE, "asr_metrics": {"x": "y" * 4096}})
    assert learned(long) is None
    assert learned(turned) is None
    assert learned(full) is None  # its usage is shortened, which is left to the whole reading
