"""Records of live tasks as Lua writes them, and what hands wrote in their place."""

from __future__ import annotations

import pytest

from bus import records
from bus.records import Record


def test_a_record_has_its_parts_in_order() -> None:
    found = records.parse_record("17-1|2|3|4|5|c|m=3,t=60|x")

    assert found == Record("17-1", 2, 3, 4, 5, "c", "m=3,t=60|x")


def test_most_records_are_fresh() -> None:
    assert records.parse_record("17-1|0|0|0|0||") == Record("17-1", 0, 0, 0, 0, "", "")


@pytest.mark.parametrize(
    "text", ["0-0", "17-1", f"{2**64 - 1}-{2**64 - 1}", f"{'0' * 60}1-0"]
)
def test_ids_of_entries_are_those_the_server_takes(text: str) -> None:
    assert records.is_sid(text)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "17", "17-", "-1", "17-x", "x-1", "17-1-1", "-17-1", "١-1", "1-²"),
        *(f"{2**64}-0", f"0-{2**64}", f"{'0' * 61}1-0"),
    ],
)
def test_whatever_else_stands_there_is_no_id(text: str | None) -> None:
    assert records.is_sid(text) is False


@pytest.mark.parametrize(
    ("sid", "last", "came"),
    [
        ("9-0", "10-0", True),
        ("10-0", "9-0", False),
        ("9-9", "9-10", True),
        ("9-10", "9-9", False),
        ("9-1", "9-1", True),
        ("8-9", "9-1", True),
        ("9-1", None, False),
        ("9-1", "", False),
    ],
)
def test_entries_are_in_order_by_their_numbers(
    sid: str, last: str | None, came: bool
) -> None:
    assert records.is_upto(sid, last) is came


def test_options_are_pairs_of_which_unknown_ones_are_kept() -> None:
    assert records.parse_options("m=3,t=60,,new=a=b,bare") == {
        **{"m": "3", "t": "60", "new": "a=b", "bare": ""}
    }
    assert records.parse_options("") == {}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0.001", 0.001),
        ("604800", 604_800.0),
        ("0.0009", None),
        ("604800.1", None),
        *((text, None) for text in ("nan", "inf", "-1", "0", "", "x", None)),
    ],
)
def test_a_time_limit_is_one_that_may_be_set(
    text: str | None, limit: float | None
) -> None:
    assert records.seconds(text) == limit
    assert records.timeout_s(f"m=3,t={text or ''}") == limit


def test_a_task_without_a_limit_of_its_own_has_none() -> None:
    assert records.timeout_s("") is records.timeout_s("m=3") is None


@pytest.mark.parametrize(
    ("attempts", "may"), [(0, False), (1, True), (1_000, True), (1_001, False)]
)
def test_a_task_is_tried_once_at_least_and_not_for_ever(
    attempts: int, may: bool
) -> None:
    assert records.may_try(attempts) is may


def test_results_tell_what_a_task_was_sent_with() -> None:
    assert records.own("m=3,t=1.5,of=id-1,x=y") == {
        **{"max_attempts": 3, "timeout_s": 1.5, "again_of": "id-1"}
    }
    assert records.own("t=60") == {"timeout_s": 60.0}
    assert records.own("m=three,t=x") == records.own("") == {}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("0", 0), ("007", 7), ("9" * 19, int("9" * 19)), ("1" + "0" * 19, None)),
        *((text, None) for text in ("", "-1", "1.0", "1 ", "²", "١", "x")),
    ],
)
def test_a_number_is_plain_and_decimal(text: str, number: int | None) -> None:
    assert records.number(text) == number
