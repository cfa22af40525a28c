"""What a topic did over time, drawn by attributes alone: no style, no script.

Bars stand on each other by outcome; how long tasks waited and ran has bars of its own,
in steps of doublings, since that is how finely it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bus import deaths, errors, messages, rates
from bus.deaths import Deaths
from bus.rates import Span
from dashboard import formats

Row = dict[str, Any]
HOUR: Final = "hour"
# What may be chosen; the length of one bar in ms.
SPANS: Final = {
    HOUR: ("Last hour", 60_000),
    "day": ("24 hours", 3_600_000),
    "week": ("7 days", 3_600_000),
    "month": ("30 days", 86_400_000),
}
_DAYS: Final = 30
_HOURS: Final = {"day": 24, "week": 7 * 24, "month": rates.HOURS_MOST}
_HALF, _MOST = 0.5, 0.95
_STEP: Final = 10  # of the drawing, from bar to bar
_TALL: Final = 100
# From the ground up: an outcome keeps its place.
_OUTCOMES: Final = ("done", "retried", "dead")
_STEPS_MOST: Final = 31  # doublings of a ms


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing: `svg`, the value of its full height, and what it adds up to."""

    name: str
    svg: SafeString
    top: str
    keys: tuple[tuple[str, str, str], ...]  # class, word, value


def of_topic(topic: str, span: str, minutes: Sequence[Span]) -> Row:
    """The charts of one span, of which the caller has the hour's `minutes`.

    InvalidOption for a span that is none: it came out of the address bar.
    """
    if span not in SPANS:
        raise errors.InvalidOption(
            f"no span {span!r:.20}; there are {', '.join(SPANS)}"
        )
    spans = minutes if span == HOUR else _measured(topic, span)
    total = reduce(add, spans)
    quiet = not (total.accepted or any(total.runs) or any(map(_ended, spans)))
    return {
        "span": span,
        "tabs": [(name, words) for name, (words, _) in SPANS.items()],
        "quiet": quiet,
        "charts": [] if quiet else [*_drawn(span, spans, total)],
        "rows": [*reversed([*_rows(span, spans)])],
        "begins": _begin(span, spans[0]),
        "middle": _begin(span, spans[len(spans) // 2]),
    }


def of_deaths(died: Deaths) -> Row:
    """The chart of when letters died, hour by hour, with its first and middle hour."""
    spans = [
        Span(died.at_ms + at * deaths.HOUR_MS, dead=count)
        for at, count in enumerate(died.hours)
    ]
    most, total = max(died.hours), sum(died.hours)
    chart = Chart(
        "Died",
        _svg(
            f"Letters that lie dead, by the hour they died in: {total:,} in the last "
            f"{len(spans)} hours, {most:,} in one at most",
            "day",
            spans,
            [("dead", _bars(died.hours, most))],
            lambda each: f"{each.dead:,}",
        ),
        formats.number(most),
        (("dead", f"in the last {len(spans)} hours", formats.number(total)),),
    )
    return {
        "charts": [chart] if total else [],
        "begins": _begin("day", spans[0]),
        "middle": _begin("day", spans[len(spans) // 2]),
        "left_out": died.left_out,
    }


def _measured(topic: str, span: str) -> Sequence[Span]:
    hours = rates.hours(topic, _HOURS[span])
    return _by_day(hours)[-_DAYS:] if span == "month" else hours


def _by_day(hours: Iterable[Span]) -> list[Span]:
    """Hours of one day (UTC) counted together."""
    days: dict[int, Span] = {}
    for hour in hours:
        day = hour.at_ms // 86_400_000
        days[day] = days.get(day, Span(day * 86_400_000)) + hour
    return [*days.values()]


def _ended(span: Span) -> int:
    return span.done + span.retried + span.dead


def _drawn(span: str, spans: Sequence[Span], total: Span) -> Iterable[Chart]:
    came = ("came", "came", formats.number(total.accepted))
    ended = [(name, name, formats.number(getattr(total, name))) for name in _OUTCOMES]
    most = max(max(_ended(each), each.accepted) for each in spans)
    words = f"Attempts that ended, and tasks that came, {SPANS[span][0].lower()}"
    yield Chart(
        "How they ended",
        _svg(words, span, spans, _outcomes(spans, most), _count_words),
        formats.number(most),
        (*ended, came),
    )
    for name, ms_of, says in (
        ("Waited", Span.wait_ms, "How long tasks that were done had waited"),
        ("Ran", Span.run_ms, "How long attempts ran"),
    ):
        yield _lasting(name, ms_of, says, span, spans, total)


def _lasting(
    name: str,
    ms_of: Callable[[Span, float], int | None],
    says: str,
    span: str,
    spans: Sequence[Span],
    total: Span,
) -> Chart:
    """How long something took: of 95 % of the tasks, and of half of them before it."""

    def words(each: Span) -> str:
        half, most = ms_of(each, _HALF), ms_of(each, _MOST)
        if most is None:
            return "nothing"
        return f"half within {formats.ms(half)}, 95 % within {formats.ms(most)}"

    top = max(ms_of(each, _MOST) or 1 for each in spans)
    shapes = [
        (css, _bars([_steps(ms_of(each, share)) for each in spans], _steps(top)))
        for css, share in (("most", _MOST), ("half", _HALF))
    ]
    return Chart(
        name,
        _svg(f"{says}, {SPANS[span][0].lower()}", span, spans, shapes, words),
        formats.ms(top),
        (
            ("half", "half within", formats.ms(ms_of(total, _HALF))),
            ("most", "95 % within", formats.ms(ms_of(total, _MOST))),
        ),
    )


def _steps(ms: int | None) -> float:
    """The height of a time: one step for each doubling, from 1 ms on."""
    return 0 if ms is None else min(ms.bit_length(), _STEPS_MOST)


def _outcomes(spans: Sequence[Span], most: int) -> list[tuple[str, str]]:
    """Paths of the outcomes, each on top of those before it, and of what came."""
    ground = [0.0] * len(spans)
    shapes = []
    for name in _OUTCOMES:
        values = [float(getattr(each, name)) for each in spans]
        shapes.append((name, _bars(values, most, ground)))
        ground = [*map(add, ground, values)]
    line = " ".join(
        f"{'L' if at else 'M'}{at * _STEP + _STEP // 2} {_y(each.accepted, most):g}"
        for at, each in enumerate(spans)
    )
    return [*shapes, ("came", line)]


def _bars(
    values: Sequence[float], most: float, ground: Sequence[float] | None = None
) -> str:
    """One path for all bars of a kind: an element each would be most of a page."""
    path = []
    for at, value in enumerate(values):
        if value:
            below = ground[at] if ground else 0.0
            low, high = _y(below, most), _y(below + value, most)
            path.append(f"M{at * _STEP + 1} {low:g}v{high - low:g}h8v{low - high:g}z")
    return "".join(path)


def _y(value: float, most: float) -> float:
    # A hair below the edge, so that the line at the top is not cut.
    return round(_TALL - value / max(most, 1) * (_TALL - 1), 1)


def _svg(
    words: str,
    span: str,
    spans: Sequence[Span],
    shapes: Iterable[tuple[str, str]],
    tells: Callable[[Span], str],
) -> SafeString:
    paths = format_html_join(
        "", '<path class="{}" d="{}"/>', ((css, d) for css, d in shapes if d)
    )
    # What the pointer is over tells its numbers.
    tips = format_html_join(
        "",
        '<rect x="{}" y="0" width="{}" height="{}"><title>{}: {}</title></rect>',
        (
            (at * _STEP, _STEP, _TALL, _begin(span, each), tells(each))
            for at, each in enumerate(spans)
        ),
    )
    return format_html(
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}{}</svg>',
        len(spans) * _STEP,
        _TALL,
        words,
        paths,
        tips,
    )


def _count_words(span: Span) -> str:
    counts = [f"{getattr(span, name):,} {name}" for name in _OUTCOMES]
    return ", ".join([f"{span.accepted:,} came", *counts])


def _begin(span: str, each: Span) -> str:
    """When a bar begins, in UTC, as short as its span allows."""
    at = messages.iso(each.at_ms)
    day, clock = at[5:10], at[11:16]
    if span == "month":
        return day
    return f"{day} {clock}" if span == "week" else clock


def _rows(span: str, spans: Iterable[Span]) -> Iterable[Row]:
    """The numbers behind the drawings, of those bars that count anything."""
    for each in spans:
        if each.accepted or _ended(each) or each.lost:
            yield {
                "begins": _begin(span, each),
                "came": each.accepted,
                **{name: getattr(each, name) for name in _OUTCOMES},
                "lost": each.lost,
                "wait_ms": [each.wait_ms(share) for share in (_HALF, _MOST)],
                "run_ms": [each.run_ms(share) for share in (_HALF, _MOST)],
            }
