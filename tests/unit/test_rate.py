"""How fast a count has grown of late."""

from __future__ import annotations

from bus.runtime.rate import SPAN_S, Rate


def test_the_first_look_knows_of_no_growth() -> None:
    assert Rate().per_minute(100.0, 7) == 0.0


def test_a_young_count_is_measured_since_its_first_look() -> None:
    rate = Rate()
    rate.per_minute(100.0, 5)

    assert rate.per_minute(110.0, 25) == 120.0


def test_what_is_over_a_minute_old_counts_no_more() -> None:
    rate = Rate()
    for second in range(200):
        told = rate.per_minute(float(second), min(second, 100) * 10)
        if second == 100:
            assert told == 600.0

    assert told == 0.0  # nothing since second 100
    assert rate.per_minute(200.0, 1_030) == 30.0


def test_looks_that_are_rare_are_over_all_the_time_between_them() -> None:
    rate = Rate()
    rate.per_minute(0.0, 0)

    assert rate.per_minute(5 * SPAN_S, 600) == 120.0


def test_no_time_between_two_looks_is_no_rate() -> None:
    rate = Rate()
    rate.per_minute(1.0, 1)

    assert rate.per_minute(1.0, 9) == 0.0
