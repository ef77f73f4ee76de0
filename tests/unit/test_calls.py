"""The typed calls: how arguments are encoded, and what is refused."""

from __future__ import annotations

import pytest

from pyscheduler.scripts import ScriptError, calls, load_scripts, loader

ACTION = {"node_id": "n", "operation": "set", "owner": "o", "reason": "r"}


def test_arguments_are_encoded_in_the_order_of_the_header() -> None:
    call = calls.hold_node(allow_unknown=True, **ACTION)
    assert call == calls.Call("hold_node", ("n", "set", "o", "r", "1"))
    assert calls.hold_node(allow_unknown=False, **ACTION).argv[-1] == "0"


def test_numbers_are_digits_and_a_load_has_four_decimals() -> None:
    arguments = dict.fromkeys(load_scripts()["upsert_node_to_pool"].header.args, "x")
    call = calls.upsert_node_to_pool(**{**arguments, "epoch": 9007199254740991, "load": 0.123456, "lease_ms": 0})
    assert (call.argv[4], call.argv[9], call.argv[11]) == ("9007199254740991", "0.1235", "0")


def test_what_follows_the_last_argument_is_passed_as_it_is() -> None:
    assert calls.find_pools(src="en", tgt="zh", services=("asr", "tts")).argv == ("en", "zh", "asr", "tts")
    assert calls.touch_nodes(lease_ms=1, nodes=[]).argv == ("1",)


def test_calls_of_one_script_are_joined_in_their_order() -> None:
    first, second = calls.Call("upsert_node_to_pool", ("a", "b")), calls.Call("upsert_node_to_pool", ("c", "d"))
    assert calls.Call.joined([first]) == first
    assert calls.Call.joined([first, second]) == calls.Call("upsert_node_to_pool", ("a", "b", "c", "d"))


def test_what_has_no_encoding_is_refused() -> None:
    with pytest.raises(TypeError, match="None cannot be an argument"):
        calls.hold_node(allow_unknown=None, **ACTION)


@pytest.mark.parametrize("wrong", [{}, {"node_id": "n"}, {**ACTION, "allow_unknown": True, "more": 1}])
def test_every_argument_is_named_and_no_other(wrong: dict[str, object]) -> None:
    with pytest.raises(
        TypeError, match="hold_node takes the keywords node_id, operation, owner, reason, allow_unknown"
    ):
        calls.hold_node(**wrong)
    with pytest.raises(TypeError, match="takes the keywords"):
        calls.hold_node("n", **wrong)  # type: ignore[call-arg]


def test_a_folder_without_scripts_is_an_error() -> None:
    with pytest.raises(ScriptError, match="no scripts"):
        loader._build({"lib/limits.lua": ""})
