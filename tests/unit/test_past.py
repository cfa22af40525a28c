"""Lines of what went before, as scripts and hands leave them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus import history
from bus.history import Past

FAILED = {"attempt": 1, "error": {"type": "E", "message": "m", "traceback": "long"}}
REPLAYED = {"replay": 2, "by": "ann", "mark": "7", "digest": "d", "payload": [1]}


def lines(*rows: Any) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_a_line_is_an_attempt_or_a_replay() -> None:
    told = history.parse(lines(FAILED, REPLAYED), 2)

    assert told == Past(2, (FAILED,), ({"epoch": 2, "by": "ann", "payload": [1]},))
    assert history.parse(lines({"replay": 1})).replays == ({"epoch": 1},)


@pytest.mark.parametrize("broken", ["{", "[1]", "7", "null", "no json"])
def test_a_broken_line_hides_none_of_the_others(broken: str) -> None:
    told = history.parse(lines(broken, "", FAILED))

    assert told == Past(0, ({"raw": broken}, FAILED), ())


def test_the_past_of_a_result_is_in_fields_of_its_own() -> None:
    fields = {"epoch": "3", "attempts": lines(FAILED)}

    assert history.of_result(fields) == Past(3, (FAILED,), ())
    assert history.of_result({"epoch": "1"}) == Past(1, (), ())
    for nothing in ({}, {"attempts": lines(FAILED)}, {"epoch": "x"}):
        assert history.of_result(nothing) == Past(0, (), ())


def test_a_row_leaves_the_bulk_to_those_who_look_at_the_task() -> None:
    past = {"epoch": "2", "attempts": lines(FAILED, {"error": "odd"}, REPLAYED)}

    assert history.row_of({"json": '{"result": 1}', **past}) == {
        "result": 1,
        "epoch": 2,
        "attempts": [
            {"attempt": 1, "error": {"type": "E", "message": "m"}},
            {"error": "odd"},
        ],
        "replays": [{"epoch": 2, "by": "ann"}],
    }


def test_a_row_without_a_past_has_no_members_of_it() -> None:
    row = {"json": '{"result": 1}'}

    assert history.row_of(row) == history.row_of({**row, "epoch": "0"}) == {"result": 1}
    one_failed = history.row_of({**row, "epoch": "0", "attempts": lines(FAILED)})
    assert len(one_failed["attempts"]) == 1
    assert history.row_of({**row, "epoch": "1"})["epoch"] == 1


@pytest.mark.parametrize("text", ["no json", "[1]", "7", ""])
def test_what_is_no_row_comes_as_its_fields(text: str) -> None:
    assert history.row_of({"json": text, "n": "1"}) == {"json": text, "n": "1"}


def replayed(*args: Any) -> dict[str, Any]:
    """What the script makes of the end of the line."""
    row = json.loads(b'{"replay":1,' + history.replay_line(*args))
    assert isinstance(row, dict)
    return row


def test_a_replay_tells_who_did_it_and_what_then_ran() -> None:
    assert replayed("1-1", "ann", "d", None) == {
        **{"replay": 1, "by": "ann", "letter": "1-1", "edited": False, "digest": "d"}
    }
    assert replayed("1-1", None, "d", None, "job-1")["job"] == "job-1"
    assert "job" not in replayed("1-1", None, "d", None)
    assert replayed("1-1", None, "d", None)["by"] is None
    assert replayed("1-1", "\ud800" + "x" * 300, "d", None)["by"] == (
        "\\ud800" + "x" * 199
    )


def test_a_replaced_payload_stays_readable_up_to_its_bound() -> None:
    most = b'"%b"' % (b"x" * (history.ORIGINAL_MOST - 2))
    beyond = b'"%b"' % (b"x" * (history.ORIGINAL_MOST - 1))

    kept, left = (replayed("1-1", None, "d", each) for each in (most, beyond))

    assert (kept["edited"], kept["payload"]) == (True, json.loads(most))
    assert "payload_bytes" not in kept
    assert (left["edited"], left["payload_bytes"]) == (True, 64 * 1024 + 1)
    assert "payload" not in left


def test_a_repeat_of_a_replay_is_told_by_what_ran() -> None:
    assert history.replayed_as('{"edited":true,"digest":"d"}') == (True, "d")
    assert history.replayed_as('{"edited":false,"digest":7}') == (False, "7")
    assert history.replayed_as("{}") == (False, "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"type": "E", "message": "no\n  ink"}, "E: no ink"),
        ({"type": "E", "message": ""}, "E"),
        ({"type": "E"}, "E"),
        ({"message": "no ink"}, "an error: no ink"),
        ({"type": "", "message": None}, "an error"),
        ({"type": 7, "message": 8}, "7: 8"),
        ("odd", "an error"),
        (None, "an error"),
        ({"type": "E", "message": "x" * 157}, "E: " + "x" * 157),
        ({"type": "E", "message": "x" * 158}, "E: " + "x" * 156 + "…"),
    ],
)
def test_an_error_is_one_line_cut_short(error: Any, text: str) -> None:
    assert history.error_text({"error": error}) == text


def test_an_attempt_that_ended_with_its_agent_is_lost() -> None:
    assert history.is_lost({"error": {"type": "LeaseLost"}})
    for other in ({}, {"error": None}, {"error": "LeaseLost"}, FAILED):
        assert not history.is_lost(other)
