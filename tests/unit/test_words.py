"""Counts, durations and paces read as people say them."""

from __future__ import annotations

import pytest

from bus import words


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12_345, "12,345 tasks")],
)
def test_one_is_no_plural(number: int, text: str) -> None:
    assert words.count(number, "task") == text


@pytest.mark.parametrize(("number", "verb"), [(0, "are"), (1, "is"), (2, "are")])
def test_the_verb_goes_with_the_number(number: int, verb: str) -> None:
    assert words.are(number) == verb
    assert words.were(number) == {"are": "were", "is": "was"}[verb]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (12.3, "12 s"),
        (119.6, "2 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (172_800, "2 d"),
        (200_000, "2 d 7 h"),
        (100_000_000, "1,157 d 9 h"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "least", "text"),
    [
        (0.2, False, "less than 1 s"),
        (1, False, "about 1 s"),
        (1.44, False, "about 1.4 s"),
        (59.4, False, "about 59 s"),
        (200, False, "about 3 min 20 s"),
        (0.2, True, "more than 0.2 s"),
        (200, True, "more than 3 min 20 s"),
    ],
)
def test_an_estimate_says_no_more_than_it_knows(
    seconds: float, least: bool, text: str
) -> None:
    assert words.estimate(seconds, least) == text
    assert least or words.estimate(seconds) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (12_345.6, "12,346 per second"),
        (9.95, "10 per second"),
        (1, "1.0 per second"),
        (0.9, "54 per minute"),
        (2.46, "2.5 per second"),
        (0.5, "30 per minute"),
        (0.02, "1.2 per minute"),
        (0.01, "36 per hour"),
        (1.9495 / 3_600, "1.9 per hour"),
    ],
)
def test_a_pace_is_said_in_the_unit_that_fits(per_s: float, text: str) -> None:
    assert words.pace(per_s) == text
