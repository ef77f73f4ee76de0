"""The log: what nodes put into it cannot act on a terminal or forge a line, and secrets do not get into it."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from pyscheduler.registry import logs

ESCAPES = "a\nfake line\r\x1b[31m\x00\u202eb\ud800"


def written(form: Any, level: Any = "info", **fields: Any) -> str:
    stream = io.StringIO()
    log = logs.make(form, level, stream=stream, secrets=["hunter2"], instance="i-1")
    log.info("something happened", **fields)
    return stream.getvalue()


def test_a_text_line_has_time_level_event_and_fields() -> None:
    line = written("text", node_id="n1", pool=None, reason="facts changed", count=3, names=["a", "b"])
    at, rest = line.split(" ", 1)
    assert at.endswith("Z")
    level, event = rest[:7], rest[8:36]
    assert (level.strip(), event.strip()) == ("info", "something happened")
    assert rest[37:] == 'instance=i-1 node_id=n1 reason="facts changed" count=3 names=[a,b]\n'


def test_a_json_line_is_one_object() -> None:
    document = json.loads(written("json", node_id="n1", pool=None, count=3))
    assert document.pop("at").endswith("Z")
    assert document == {
        "level": "info",
        "event": "something happened",
        "instance": "i-1",
        "node_id": "n1",
        "pool": None,
        "count": 3,
    }


def test_a_json_line_is_ascii_whatever_the_encoding_of_the_stream() -> None:
    line = written("json", reason="维护")
    assert line.isascii()
    assert json.loads(line)["reason"] == "维护"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_node_says_stays_on_its_line_and_does_nothing(form: str) -> None:
    line = written(form, said=ESCAPES)
    assert line.endswith("\n")
    assert line.removesuffix("\n").isprintable()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_long_value_is_cut_and_says_how_long_it_was(form: str) -> None:
    line = written(form, said="x" * 100_000, many=["y" * 1000] * 1000)
    assert len(line) < 32 * 300 + 1000
    assert "(100000 characters)" in line


def test_text_in_other_scripts_stays_readable() -> None:
    assert "维护" in written("text", reason="维护")


def test_quotes_and_equals_signs_do_not_make_further_fields() -> None:
    line = written("text", said='x" level=error pool="y')
    assert r'said="x\" level=error pool=\"y"' in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_replaced_wherever_they_turn_up(form: Any) -> None:
    stream = io.StringIO()
    log = logs.make(form, stream=stream, secrets=["hunter2"])
    try:
        raise ValueError("cannot log in with hunter2")
    except ValueError:
        log.error("failed with hunter2", exc_info=True, urls=["redis://:hunter2@example"], error="hunter2")
    assert "hunter2" not in stream.getvalue()
    assert "ValueError: cannot log in with ***" in stream.getvalue()


def test_a_field_does_not_take_the_place_of_what_every_line_has() -> None:
    line = json.loads(written("json", at="never", level="debug", event="nothing", node_id="n1"))
    assert list(line) == ["at", "level", "event", "instance", "node_id"]
    assert line["at"].endswith("Z")
    assert (line["level"], line["event"], line["node_id"]) == ("info", "something happened", "n1")


def test_a_bound_field_does_not_either() -> None:
    stream = io.StringIO()
    logs.make("json", stream=stream).bind(at="never", event="nothing", node_id="n1").info("something happened")
    line = json.loads(stream.getvalue())
    assert list(line) == ["at", "level", "event", "node_id"]
    assert (line["at"] != "never", line["event"]) == (True, "something happened")


def test_lines_below_the_level_are_not_written() -> None:
    assert written("text", "warning") == ""


def test_warnings_of_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    undo = logs.capture_library_logs(logs.make("json", stream=stream))
    try:
        logging.getLogger("some.package").warning("low on %s\nsecond line", "coffee")
        logging.getLogger("some.package").info("nobody asked")
    finally:
        undo()
    (line,) = stream.getvalue().splitlines()
    first = json.loads(line)
    assert (first["level"], first["library"], first["message"]) == ("warning", "some.package", "low on coffee")


def test_libraries_cannot_be_made_to_fill_the_log() -> None:
    stream = io.StringIO()
    log = logs.make("json", stream=stream)
    undo = logs.capture_library_logs(log)
    library = logging.getLogger("some.package")
    record = library.makeRecord(library.name, logging.WARNING, "", 0, "bad request", (), None)
    try:
        for number in range(10_000):
            record.created = 1000 + number / 10_000
            library.handle(record)
        assert len(stream.getvalue().splitlines()) == logs.LIBRARY_BURST
        # Later there is room again, and it is said that something is missing.
        record.created += 60
        library.handle(record)
        library.warning("No supported WebSocket library detected. Please use something else")
    finally:
        undo()
    told, last = (json.loads(line) for line in stream.getvalue().splitlines()[logs.LIBRARY_BURST :])
    assert (told["event"], told["lines"]) == ("log_lines_left_out", 10_000 - logs.LIBRARY_BURST)
    assert last["message"] == "bad request"


def test_a_stream_that_is_gone_does_not_end_the_process() -> None:
    stream = io.StringIO()
    log = logs.make(stream=stream)
    stream.close()
    log.info("nobody hears it")
