"""A task's life is drawn to scale, and what is too short to be seen is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import messages
from dashboard import lifeline

BEGAN_MS = 1_700_000_000_000
Told = tuple[str, float | None]


def rows(*told: Told) -> list[dict[str, Any]]:
    """A timeline of what happened so many seconds after the beginning."""
    return [
        {
            "what": what,
            "at": None if after_s is None else messages.iso(at_ms(after_s)),
            "agent": None,
            "detail": None,
        }
        for what, after_s in told
    ]


def at_ms(after_s: float) -> int:
    return BEGAN_MS + round(after_s * 1000)


def lived(*told: Told, ended: bool = True, now_s: float = 0) -> list[tuple[str, float]]:
    """The parts of such a life: kind, and length in seconds."""
    found = lifeline.parts(rows(*told), ended, at_ms(now_s))
    return [(part.css, part.length_ms / 1000) for part in found]


def bars(drawn: dict[str, Any] | None) -> list[tuple[str, float, float]]:
    """Kind, place and width of what is drawn."""
    assert drawn is not None
    found = re.findall(
        r'<rect class="(\w+)" x="([\d.]+)" width="([\d.]+)"', drawn["svg"]
    )
    return [(css, float(x), float(width)) for css, x, width in found]


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        (
            [("enqueued", 0), ("started", 1), ("done", 4)],
            [("wait", 1), ("done", 3)],
        ),
        (
            [
                *[("enqueued", 0), ("started", 1), ("failed", 2)],
                *[("started", 12), ("failed", 14), ("dead", 14.003)],
            ],
            [("wait", 1), ("failed", 1), ("pause", 10), ("failed", 2)],
        ),
        (
            [
                *[("enqueued", 0), ("started", 1), ("failed", 2), ("replayed", 62)],
                *[("started", 63), ("done", 64)],
            ],
            [("wait", 1), ("failed", 1), ("dead", 60), ("wait", 1), ("done", 1)],
        ),
        (
            [
                *[("enqueued", 0), ("started", 1), ("failed", 2), ("discarded", 5)],
                *[("restored", 9), ("replayed", 10), ("started", 11), ("done", 12)],
            ],
            [
                *[("wait", 1), ("failed", 1), ("dead", 3), ("away", 4), ("dead", 1)],
                *[("wait", 1), ("done", 1)],
            ],
        ),
        (
            [("enqueued", 0), ("lost", 5), ("started", 6), ("done", 7)],
            [("either", 5), ("wait", 1), ("done", 1)],
        ),
        (
            [("enqueued", 0), ("run now", 30), ("started", 31), ("done", 32)],
            [("delay", 30), ("wait", 1), ("done", 1)],
        ),
        (
            [("enqueued", 0), ("cancel asked for", 3), ("cancelled", 4)],
            [("wait", 4)],
        ),
        (
            [("enqueued", 0), ("started", 2), ("failed", 2), ("started", 2)],
            [("wait", 2), ("failed", 0)],
        ),
        ([("enqueued", 0), ("done", None)], []),
        ([("enqueued", None), ("done", 3)], []),
    ],
)
def test_a_life_falls_into_its_parts(
    told: list[Told], parts: list[tuple[str, float]]
) -> None:
    assert lived(*told) == parts


def test_a_life_that_goes_on_is_drawn_up_to_now_or_until_it_is_due() -> None:
    assert lived(("enqueued", 0), ended=False, now_s=7) == [("wait", 7)]
    running = lived(("enqueued", 0), ("running", None), ended=False, now_s=7)
    assert running == [("either", 7)]
    delayed = [("enqueued", 0.0), ("started", 1.0), ("failed", 2.0), ("due", 32.0)]
    assert lived(*delayed, ended=False, now_s=7)[-1] == ("pause", 30)
    assert lived(("enqueued", 0), ("due", 60), ended=False, now_s=7) == [("delay", 60)]


def test_times_that_cross_by_a_few_ms_are_no_part() -> None:
    told = [("enqueued", 1.0), ("started", 0.998), ("done", 2.0)]

    assert lived(*told) == [("done", 1)]


def test_parts_are_as_wide_as_they_are_long() -> None:
    told = rows(("enqueued", 0), ("started", 1), ("failed", 3), ("started", 9))
    drawn = lifeline.drawn([*told, *rows(("done", 10))], True)

    assert drawn is not None
    assert bars(drawn) == [
        ("wait", 0, 100),
        ("failed", 100, 200),
        ("pause", 300, 600),
        ("done", 900, 100),
    ]
    assert (drawn["took_ms"], drawn["wider_ms"]) == (10_000, 0)
    assert (drawn["begins"], drawn["ends"]) == (
        messages.iso(BEGAN_MS),
        messages.iso(at_ms(10)),
    )


def test_a_part_a_thousand_times_shorter_is_seen_and_told() -> None:
    told = rows(("enqueued", 0), ("started", 0.003), ("failed", 0.005), ("due", 60))
    drawn = lifeline.drawn(told, False, at_ms(30))

    assert drawn is not None
    (_, _, waited), (_, _, ran), (_, _, paused), (now, x, _) = bars(drawn)
    assert waited == ran >= 10
    assert waited + ran + paused == pytest.approx(1000)
    assert drawn["wider_ms"] == 3
    assert "waited 3 ms, then ran and failed 2 ms, then paused" in drawn["svg"]
    assert (now, x) == ("here", pytest.approx(24 + 976 / 2, abs=1))


def test_each_kind_is_summed_up() -> None:
    told = [("enqueued", 0.0)]
    for at in range(3):
        told += [("started", at * 10 + 1.0), ("failed", at * 10 + 2.0)]
    drawn = lifeline.drawn(rows(*told, ("dead", 22.001)), True)

    assert drawn is not None
    assert drawn["keys"] == [
        ("wait", "waited", "1.0 s"),
        ("failed", "ran and failed", "3.0 s, 3 times"),
        ("pause", "paused before a retry", "18 s, 2 times"),
    ]


def test_an_attempt_of_no_time_is_seen() -> None:
    drawn = lifeline.drawn(rows(("enqueued", 0), ("started", 9), ("done", 9)), True)

    assert drawn is not None
    assert [css for css, _, _ in bars(drawn)] == ["wait", "done"]
    assert drawn["wider_ms"] == 1


def test_nothing_that_lasted_is_not_drawn() -> None:
    assert lifeline.drawn([], True) is None
    assert lifeline.drawn(rows(("enqueued", 0)), False, BEGAN_MS) is None
    assert lifeline.drawn(rows(("enqueued", 0)), True) is None
    told = rows(("enqueued", 0), ("started", 0), ("done", 0))
    assert lifeline.drawn(told, True) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("started", "failed", "lost", "replayed", "discarded", "due"),
                    *("restored", "running", "run now", "cancel asked for", "dead"),
                    *("done", "cancelled", "made up"),
                ]
            ),
            st.one_of(st.none(), st.floats(0, 10**9)),
        ),
        max_size=120,
    ),
    st.booleans(),
)
def test_whatever_happened_the_drawing_is_full_and_nothing_is_too_narrow(
    told: list[Told], ended: bool
) -> None:
    drawn = lifeline.drawn(rows(("enqueued", 0), *told), ended, at_ms(5))

    if drawn is not None:
        parts = [each for each in bars(drawn) if each[0] != "here"]
        assert sum(width for *_, width in parts) == pytest.approx(1000, abs=1)
        assert min(width for *_, width in parts) >= min(12, 600 / len(parts)) - 0.01
        assert all(-0.01 <= x <= 1000 for _, x, _ in bars(drawn))


def test_rows_say_how_long_after_the_one_before_they_came() -> None:
    told = rows(("enqueued", 0), ("replayed", None), ("started", 1.5), ("done", 1.4))

    assert [row["after_ms"] for row in lifeline.timed(told)] == [None, None, 1500, 0]
