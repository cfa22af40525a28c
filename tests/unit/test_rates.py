"""Rows of the rings as their scripts leave them, read without a server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bus import errors, rates
from bus.rates import Rates, Span

STAMPS = (98, 99, 100)
MARKS = ("98 ", "99 ", "100 ")
ROWS = (
    "98 A=10 d=4 t=1 w3=4 r10=5",
    "99 A=15 d=6 x=2 l=1 w3=2 w5=4 r10=8",
    "100 A=15 d=1 x=1 w1=1 r0=2",
)


def read(*rows: str | None, accepted: int = 18, over: float = 0.25) -> Rates:
    return Rates(STAMPS, MARKS, rows, accepted, over)


def test_a_minute_has_the_counts_of_its_row() -> None:
    assert read(*ROWS).minutes == (
        Span(98 * 60_000, 5, 4, 1, 0, 0, Counter({3: 4}), Counter({10: 5})),
        Span(99 * 60_000, 0, 6, 0, 2, 1, Counter({3: 2, 5: 4}), Counter({10: 8})),
        Span(100 * 60_000, 3, 1, 0, 1, 0, Counter({1: 1}), Counter({0: 2})),
    )


def test_what_came_is_told_by_the_next_row_even_after_a_quiet_minute() -> None:
    found = read(ROWS[0], None, "100 A=17").minutes

    assert [each.accepted for each in found] == [7, 0, 1]


def test_a_count_that_went_back_is_no_negative_one() -> None:
    assert [each.accepted for each in read(*ROWS, accepted=3).minutes] == [5, 0, 0]


def test_the_last_sixty_seconds_take_their_share_of_the_minute_before() -> None:
    found = read(*ROWS)

    assert found.done_per_minute == 1 + 6 * 0.75
    assert found.dead_per_minute == 1 + 2 * 0.75
    assert read(ROWS[0], None, ROWS[2]).done_per_minute == 1
    assert read(ROWS[0], ROWS[1], None).done_per_minute == 6 * 0.75


def test_the_line_of_what_was_done_has_each_minute_in_its_place() -> None:
    assert read(*ROWS).done == [4, 6, 1]
    assert read(None, ROWS[1], "100 A=1 t=7").done == [0, 6, 0]


def test_rows_of_the_rings_last_turn_count_nothing() -> None:
    found = read("-82 d=9 w3=9", "9 d=9", "1000 d=9 x=9 w3=9")

    assert found.done == [0, 0, 0]
    assert found.done_per_minute == found.dead_per_minute == 0
    assert found.minutes[0] == Span(98 * 60_000)
    assert found.wait_ms(0.5) is None


@pytest.mark.parametrize(
    ("share", "waited", "ran"), [(0.5, 8, 1_024), (0.7, 32, 1_024), (0.01, 2, 1)]
)
def test_how_long_they_waited_and_ran_is_told_over_all_minutes(
    share: float, waited: int, ran: int
) -> None:
    found = read(*ROWS)

    assert (found.wait_ms(share), found.run_ms(share)) == (waited, ran)


def test_a_share_is_reached_exactly_at_the_edge_of_its_bucket() -> None:
    span = Span(0, waits=Counter({1: 5, 2: 5}), runs=Counter({0: 1}))

    assert [span.wait_ms(share) for share in (0.5, 0.51, 1.0)] == [2, 4, 4]
    assert span.run_ms(0.95) == 1
    assert Span(0).wait_ms(0.5) is Span(0).run_ms(0.5) is None


@pytest.mark.parametrize(
    "text", ["d=x", "d=", "d=-3", "d=3x", "dd=3", "d3=3", "w=3", "w99=3", "w32=3", "?"]
)
def test_what_somebody_wrote_there_by_hand_counts_nothing(text: str) -> None:
    found = read(None, None, f"100 {text} x=2")

    assert found.minutes[-1] == Span(100 * 60_000, dead=2)
    assert (found.done[-1], found.done_per_minute, found.wait_ms(1)) == (0, 0, None)


def test_the_largest_bucket_counts() -> None:
    found = read(None, None, "100 w31=3 r31=2")

    assert (found.wait_ms(1), found.run_ms(1)) == (2**31, 2**31)
    assert found.minutes[-1].wait_ms(1) == 2**31


def test_spans_add_up_from_where_the_first_began() -> None:
    one = Span(1, 1, 2, 3, 4, 5, Counter({1: 1}), Counter({2: 2}))
    two = Span(7, 10, 20, 30, 40, 50, Counter({1: 1}), Counter({3: 3}))

    assert one + two == Span(
        1, 11, 22, 33, 44, 55, Counter({1: 2}), Counter({2: 2, 3: 3})
    )


@pytest.mark.parametrize(
    ("ask", "count"),
    [
        *((lambda n: rates.of_topics([], n), count) for count in (1, 180, -2)),
        *((lambda n: rates.hours("t", n), count) for count in (0, 720, -2)),
    ],
)
def test_a_count_that_no_ring_holds_is_refused(ask: Any, count: int) -> None:
    with pytest.raises(errors.InvalidOption, match=f"count {count} is not [12] to "):
        ask(count)
