"""Rows on the wire: whatever somebody wrote, one row never takes a socket down."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from bus import errors
from bus.live import frames, window
from bus.live.window import Item, Window
from dashboard import painting

TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"
ODD: list[Any] = [
    *(None, 5, -1, 1e308, True, "", "x" * 300, "\x00", [1], {"a": {"b": []}}),
    *("2026-13-45T99:99:99Z", "9999999999999999999999-1", 10**30, "../..", "<b>"),
]
ROW = ["id", "topic", "state", "task", "result", "agent", "attempt", "error"]
TIMES = ["enqueued_at", "started_at", "finished_at", "entry_id"]
LETTER = ["id", "json", "error", "fp", "fence", "attempts", "meta"]
TEXTS = [
    *("", "x", "null", "[]", "5", '{"id":5,"payload":"x"}', "1e999", "\\xff", "\x00"),
    *('{"type":5,"message":[1],"traceback":{}}', "e=9999999999999,epoch=x,m="),
    '[1,2]\n{"attempt":"x","epoch":[],"agent":{}}',
]


def item(kind: str, number: int = 0, **fields: str) -> Item:
    entry_id = f"1732287600000-{number}"
    return Item(kind, window.stream_of(kind, "demo"), "demo", entry_id, None, fields)


@pytest.mark.parametrize("field", [*ROW, *TIMES])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_an_odd_result_is_still_a_row(field: str, value: Any) -> None:
    text = json.dumps({"id": "a", "state": "done", field: value})
    odd = item(window.RESULTS, id="a", json=text)

    told = json.loads(painting.row(odd, "admin"))

    assert 'data-entry="1732287600000-0"' in told["html"]
    assert "<b>" not in told["html"]
    assert json.loads(odd.wire())["topic"] == "demo"


def test_an_odd_letter_is_still_a_row() -> None:
    for field, text in itertools.product(LETTER, TEXTS):
        odd = item(window.DEAD, **{"id": "a", "json": "{}", field: text})

        told = json.loads(painting.row(odd, "operator"))

        assert 'data-entry="1732287600000-0"' in told["html"], (field, text)
        assert json.loads(odd.wire())["entry_id"] == "1732287600000-0"


def test_a_row_is_made_once_for_everybody() -> None:
    letter, calls = item(window.DEAD, id=TASK_ID, json="{}"), []

    for _ in range(3):
        letter.made("html", lambda each: calls.append(each) or "row")

    assert len(calls) == 1
    assert painting.row(letter, "viewer") != painting.row(letter, "operator")


def test_the_window_keeps_the_newest_and_counts_on() -> None:
    kept = Window(rows_most=10, bytes_most=10_000_000)

    kept.extend([item(window.RESULTS, n) for n in range(25)])
    kept.extend([item(window.RESULTS, n) for n in range(25, 27)])

    assert (kept.start, kept.end) == (17, 27)
    assert [each.place[1] for each in kept.since(20, 3)] == [20, 21, 22]


def test_the_window_is_bounded_in_bytes_as_well() -> None:
    kept = Window(rows_most=1_000, bytes_most=100_000)

    kept.extend([item(window.RESULTS, n, json="x" * 30_000) for n in range(10)])
    held = kept.end - kept.start
    kept.extend([item(window.RESULTS, 11, json="x" * 900_000)])

    assert held == 3
    assert kept.end - kept.start == 1, "the newest stays, however big it is"


@pytest.mark.parametrize("text", ["5-0", "5-7/12", "0-0", "18446744073709551615-0/0"])
def test_a_cursor_reads_back_as_it_was_written(text: str) -> None:
    assert window.cursor_text(*window.parse_cursor(text)) == text


@pytest.mark.parametrize("text", ["", "x", "5", "5-0/", "5-0/x", "5-0/1/1", "/5", None])
def test_a_text_that_is_no_cursor_is_refused(text: Any) -> None:
    with pytest.raises(errors.InvalidName):
        window.parse_cursor(text)


def test_a_letter_that_came_and_left_in_one_run_is_told_as_left_only() -> None:
    events = {"id": "a", "event": "replayed", "detail": ""}
    run = [item(window.DEAD, 1, id="a"), item(window.EVENTS, 2, **events)]

    found = frames.of_items(run)

    assert [frame.op for frame in found] == ["gone"]
    assert found[0].facts["left"] == [{"id": "a", "at": "1732287600000-2"}]
