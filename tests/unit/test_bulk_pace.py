"""How a bulk replay goes on, step by step, from nothing but its counts."""

from __future__ import annotations

import dataclasses

import pytest

from bus.bulk import pace
from bus.bulk.pace import Counts, Gauge, Pace, decide

PLAIN = Pace()
CANARY = Pace(canary=True, max_failure_rate=0.1)
WATCHED = Pace(max_failure_rate=0.5)


def counts(todo: int, done: int = 0, dead: int = 0, open_: int = 0) -> Counts:
    return Counts(todo, done + dead + open_, open_, done, dead)


def test_without_a_canary_all_may_go_at_once() -> None:
    assert decide(PLAIN, counts(500), Gauge()).allow == 500


def test_it_is_finished_once_all_outcomes_are_known() -> None:
    assert decide(PLAIN, counts(0, done=3, dead=2), Gauge()).finished
    waiting = decide(PLAIN, counts(0, done=3, open_=1), Gauge())
    assert (waiting.finished, waiting.allow) == (False, 0)


def test_a_canary_goes_one_then_ten_then_the_rest() -> None:
    first = decide(CANARY, counts(99), Gauge())
    waits = decide(CANARY, counts(98, open_=1), Gauge())
    second = decide(CANARY, counts(98, done=1), Gauge())
    between = decide(CANARY, counts(93, done=3, open_=3), second.gauge)
    third = decide(CANARY, counts(88, done=11), second.gauge)

    assert (first.allow, waits.allow) == (1, 0)
    assert (second.allow, second.gauge.step) == (10, 1)
    assert between.allow == 5
    assert (third.allow, third.gauge.step) == (88, 2)


def test_letters_that_others_replayed_first_do_not_use_up_a_step() -> None:
    skipped = dataclasses.replace(counts(50), skipped=20)

    assert decide(CANARY, skipped, Gauge()).allow == 1


def test_a_step_stops_it_as_soon_as_too_many_are_dead_for_certain() -> None:
    second = Gauge(step=1, replayed=1, done=1)

    one = decide(CANARY, counts(88, done=1, dead=1, open_=9), second)
    two = decide(CANARY, counts(88, done=1, dead=2, open_=8), second)

    assert (one.stop, one.allow) == ("", 0)  # 1 of 10 is not more than 10 %
    assert two.stop == "2 of 10 letters are dead again: 20%, more than 10%"


def test_what_is_neither_done_nor_dead_is_left_out_of_the_share() -> None:
    now = dataclasses.replace(counts(88, done=9, dead=1), cancelled=1, replayed=11)

    verdict = decide(CANARY, now, Gauge(step=1, replayed=1, done=1))

    assert verdict.stop == "1 of 9 letters is dead again: 11%, more than 10%"


def test_few_outcomes_behind_the_canary_are_no_reason_to_stop() -> None:
    assert decide(WATCHED, counts(99, dead=19), Gauge()).stop == ""
    assert decide(WATCHED, counts(99, dead=20), Gauge()).stop
    assert decide(PLAIN, counts(99, dead=200), Gauge()).stop == ""


def test_failures_that_begin_late_are_not_hidden_by_what_went_well() -> None:
    well = decide(WATCHED, counts(5_000, done=10_000), Gauge())

    late = decide(WATCHED, counts(4_900, done=10_005, dead=20), well.gauge)

    assert late.stop.startswith("20 of 25 letters are dead again")


def test_where_failures_are_to_stop_it_only_so_many_are_open() -> None:
    assert decide(WATCHED, counts(9_000, open_=400), Gauge()).allow == 600
    assert decide(WATCHED, counts(9_000, open_=1_200), Gauge()).allow == 0


def test_it_never_stops_when_nothing_is_left() -> None:
    assert decide(CANARY, counts(0, dead=1), Gauge()).finished


def test_begun_anew_it_forgets_what_failed_before() -> None:
    now = counts(20, done=3, dead=8)

    again = decide(CANARY, now, pace.start(now))

    assert (again.stop, again.allow) == ("", 1)


@pytest.mark.parametrize(
    ("canary", "given", "most"), [(True, None, 0.1), (True, 0, 0), (False, None, None)]
)
def test_a_canary_without_a_bound_has_the_usual_one(
    canary: bool, given: float | None, most: float | None
) -> None:
    assert pace.checked(None, canary, given).max_failure_rate == most
