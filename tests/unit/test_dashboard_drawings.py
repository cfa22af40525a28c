"""Charts of the last hour, drawn from its minutes alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from bus import errors
from bus.deaths import Deaths
from bus.rates import Span
from dashboard import charts
from dashboard.charts import Chart

AT_MS = 1_732_287_600_000  # 2024-11-22 15:00 UTC
HOUR = [
    Span(AT_MS, accepted=8, done=4, retried=2, dead=2, lost=1),
    Span(AT_MS + 60_000),
    Span(AT_MS + 120_000, 2, 4, waits=Counter({3: 3, 5: 1}), runs=Counter({10: 4})),
]


def told(minutes: list[Span] = HOUR, span: str = charts.HOUR) -> dict[str, Any]:
    return charts.of_topic("mail", span, minutes)


def drawn(minutes: list[Span] = HOUR) -> list[Chart]:
    found: list[Chart] = told(minutes)["charts"]
    return found


def path(chart: Chart, css: str) -> str:
    [found] = re.findall(f'<path class="{css}" d="([^"]*)"/>', chart.svg)
    return str(found)


def test_outcomes_stand_on_each_other_by_their_share_of_the_tallest_bar() -> None:
    ends, *_ = drawn()

    # Eight ended: one is an eighth of the 99 steps below the edge.
    assert path(ends, "done") == "M1 100v-49.5h8v49.5zM21 100v-49.5h8v49.5z"
    assert path(ends, "retried") == "M1 50.5v-24.7h8v24.7z"
    assert path(ends, "dead") == "M1 25.8v-24.8h8v24.8z"
    assert ends.top == "8"


def test_what_came_is_a_line_over_the_middles_of_the_bars() -> None:
    assert path(drawn()[0], "came") == "M5 1 L15 100 L25 75.2"


def test_what_came_may_be_the_tallest() -> None:
    ends, *_ = drawn([Span(AT_MS, accepted=10, done=5)])

    assert ends.top == "10"
    assert path(ends, "done") == "M1 100v-49.5h8v49.5z"


def test_the_tallest_bar_is_of_all_that_ended() -> None:
    ends, *_ = drawn([Span(AT_MS, accepted=1, done=1, retried=2, dead=3)])

    assert ends.top == "6"


def test_a_bar_of_one_is_as_tall_as_the_drawing() -> None:
    ends, *_ = drawn([Span(AT_MS, accepted=1, done=1)])

    assert ends.svg == (
        '<svg viewBox="0 0 10 100" preserveAspectRatio="none" role="img" aria-label="'
        'Attempts that ended, and tasks that came, last hour">'
        '<path class="done" d="M1 100v-99h8v99z"/><path class="came" d="M5 1"/>'
        '<rect x="0" y="0" width="10" height="100"><title>'
        "15:00: 1 came, 1 done, 0 retried, 0 dead</title></rect></svg>"
    )


def test_a_drawing_adds_up_what_it_shows() -> None:
    assert drawn()[0].keys == (
        ("done", "done", "8"),
        ("retried", "retried", "2"),
        ("dead", "dead", "2"),
        ("came", "came", "10"),
    )


def test_times_have_a_step_for_each_doubling() -> None:
    _, waited, ran = drawn()

    # Half waited 8 ms at most, 4 doublings from 1 ms on, 95 % of them 32 ms: 6.
    assert path(waited, "most") == "M21 100v-99h8v99z"
    assert path(waited, "half") == "M21 100v-66h8v66z"
    assert (waited.name, waited.top, ran.name, ran.top) == (
        *("Waited", "32 ms"),
        *("Ran", "1.0 s"),
    )
    assert waited.keys == (
        ("half", "half within", "8 ms"),
        ("most", "95 % within", "32 ms"),
    )


def test_no_time_is_taller_than_the_drawing() -> None:
    _, _, ran = drawn([Span(AT_MS, runs=Counter({31: 1}))])

    assert path(ran, "most") == path(ran, "half") == "M1 100v-99h8v99z"


def test_bars_without_a_count_are_not_drawn() -> None:
    ends, waited, _ = drawn([Span(AT_MS, accepted=1)])

    assert re.findall('class="([a-z]+)"', ends.svg) == ["came"]
    assert "<path" not in waited.svg
    assert (waited.top, waited.keys[0][2]) == ("1 ms", "–")


def test_the_pointer_is_told_the_numbers_of_its_bar() -> None:
    ends, waited, ran = drawn()

    tips = [
        re.findall(r"<title>([^<]*)</title>", each.svg) for each in (ends, waited, ran)
    ]
    assert tips[0] == [
        "15:00: 8 came, 4 done, 2 retried, 2 dead",
        "15:01: 0 came, 0 done, 0 retried, 0 dead",
        "15:02: 2 came, 4 done, 0 retried, 0 dead",
    ]
    assert tips[1][1:] == [
        "15:01: nothing",
        "15:02: half within 8 ms, 95 % within 32 ms",
    ]
    assert tips[2][2] == "15:02: half within 1.0 s, 95 % within 1.0 s"
    places = re.findall(r'<rect x="(\d+)" y="0" width="10" height="100">', ends.svg)
    assert places == ["0", "10", "20"]


def test_a_drawing_says_what_it_is_of() -> None:
    labels = [re.findall('aria-label="([^"]*)"', each.svg) for each in drawn()]

    assert labels == [
        ["Attempts that ended, and tasks that came, last hour"],
        ["How long tasks that were done had waited, last hour"],
        ["How long attempts ran, last hour"],
    ]
    assert all('viewBox="0 0 30 100"' in each.svg for each in drawn())
    assert drawn()[0].name == "How they ended"


def test_the_numbers_stand_below_the_newest_first_without_quiet_minutes() -> None:
    newest, oldest = told()["rows"]

    assert newest == {
        **{"begins": "15:02", "came": 2, "done": 4, "retried": 0, "dead": 0},
        **{"lost": 0, "wait_ms": [8, 32], "run_ms": [1_024, 1_024]},
    }
    assert oldest == {
        **{"begins": "15:00", "came": 8, "done": 4, "retried": 2, "dead": 2},
        **{"lost": 1, "wait_ms": [None, None], "run_ms": [None, None]},
    }


@pytest.mark.parametrize(
    "counts",
    [{"accepted": 1}, {"done": 1}, {"retried": 1}, {"dead": 1}, {"lost": 1}],
)
def test_one_count_is_worth_a_row(counts: dict[str, int]) -> None:
    assert len(told([Span(AT_MS, **counts), Span(AT_MS + 60_000)])["rows"]) == 1


@pytest.mark.parametrize(
    ("minute", "quiet"),
    [
        (Span(AT_MS), True),
        (Span(AT_MS, lost=1), True),
        (Span(AT_MS, accepted=1), False),
        (Span(AT_MS, done=1), False),
        (Span(AT_MS, retried=1), False),
        (Span(AT_MS, dead=1), False),
        (Span(AT_MS, runs=Counter({3: 1})), False),
    ],
)
def test_an_hour_in_which_nothing_came_or_ended_is_not_drawn(
    minute: Span, quiet: bool
) -> None:
    found = told([Span(AT_MS - 60_000), minute])

    assert (found["quiet"], bool(found["charts"])) == (quiet, not quiet)


def test_the_axis_names_the_begin_and_the_middle() -> None:
    found = told()

    assert (found["begins"], found["middle"]) == ("15:00", "15:01")
    later = Span(AT_MS + 180_000)
    assert told([*HOUR, later, later, later])["middle"] == "15:03"
    assert found["span"] == "hour"
    assert found["tabs"] == [
        ("hour", "Last hour"),
        ("day", "24 hours"),
        ("week", "7 days"),
        ("month", "30 days"),
    ]


@pytest.mark.parametrize(
    ("span", "text"),
    [("hour", "15:00"), ("day", "15:00"), ("week", "11-22 15:00"), ("month", "11-22")],
)
def test_a_bar_is_named_as_shortly_as_its_span_allows(span: str, text: str) -> None:
    assert charts._begin(span, Span(AT_MS)) == text


def test_hours_of_one_day_are_counted_together() -> None:
    day = AT_MS - AT_MS % 86_400_000
    hours = [Span(day + hour * 3_600_000, done=1) for hour in range(22, 26)]

    assert charts._by_day(hours) == [
        Span(day, done=2),
        Span(day + 86_400_000, done=2),
    ]


def test_an_address_may_name_no_span() -> None:
    with pytest.raises(errors.InvalidOption) as caught:
        told(span="year" * 10)

    assert str(caught.value) == (
        "no span 'yearyearyearyearyea; there are hour, day, week, month"
    )


def test_deaths_are_drawn_hour_by_hour() -> None:
    at_ms = AT_MS - 2 * 3_600_000

    found = charts.of_deaths(Deaths(at_ms, (1, 0, 3), left_out=5))

    [chart] = found["charts"]
    assert path(chart, "dead") == "M1 100v-33h8v33zM21 100v-99h8v99z"
    assert re.findall(r"<title>([^<]*)</title>", chart.svg) == [
        *("13:00: 1", "14:00: 0", "15:00: 3")
    ]
    assert re.findall('aria-label="([^"]*)"', chart.svg) == [
        "Letters that lie dead, by the hour they died in: "
        "4 in the last 3 hours, 3 in one at most"
    ]
    assert (chart.name, chart.top) == ("Died", "3")
    assert chart.keys == (("dead", "in the last 3 hours", "4"),)
    assert (found["begins"], found["middle"]) == ("13:00", "14:00")
    assert found["left_out"] == 5


def test_hours_without_a_death_are_not_drawn() -> None:
    found = charts.of_deaths(Deaths(AT_MS, (0, 0, 0, 0)))

    assert (found["charts"], found["middle"]) == ([], "17:00")
