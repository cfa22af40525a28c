"""The life of one task drawn to scale: what it spent its time on.

Drawn by attributes alone, as the charts are. What would be too narrow to be seen is
drawn wider, and the page says so; true lengths stand in words.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bus import messages
from dashboard import formats

Row = dict[str, Any]
_WIDE: Final = 1_000  # of the drawing; it is stretched to whatever place there is
_TALL: Final = 28
_LEAST: Final = 12.0  # a part's width: 4 px of a phone
_CROWDED: Final = 0.6  # of the drawing that such parts may take together
_WORDS_MOST: Final = 20  # parts that are read out one by one

# Attempts stand tall, waiting is lower, a pause is a line, a letter lies at the bottom:
# no meaning hangs on a colour alone. Class -> from where, how tall, what it is called.
_SHAPES: Final = {
    "wait": (8, 12, "waited"),
    "either": (5, 18, "waited and ran"),
    "done": (2, 24, "ran and was done"),
    "failed": (2, 24, "ran and failed"),
    "lost": (2, 24, "ran and was lost"),
    "ended": (2, 24, "ran and was stopped"),
    "delay": (12, 4, "was delayed"),
    "pause": (12, 4, "paused before a retry"),
    "dead": (20, 6, "lay dead"),
    "away": (20, 6, "was put away"),
}
_QUEUED: Final = frozenset(("enqueued", "replayed", "run now", "lost"))
_RAN: Final = {"done": "done", "failed": "failed", "dead": "failed", "lost": "lost"}
_LEFT: Final = frozenset(("replayed", "discarded"))
_NO_BOUND: Final = "cancel asked for"  # changes nothing by itself


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one kind, which is a class of `_SHAPES`."""

    css: str
    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        """How long it lasted."""
        return self.end_ms - self.start_ms

    @property
    def words(self) -> str:
        """What it was, and for how long."""
        return f"{_SHAPES[self.css][2]} {formats.ms(self.length_ms)}"


def timed(rows: Iterable[Row]) -> list[Row]:
    """Rows of a timeline, each with `after_ms`: how long after the one before."""
    found, before = [], None
    for row in rows:
        at = messages.iso_ms(row["at"])
        known = at is not None and before is not None
        found.append({**row, "after_ms": max(0, at - before) if known else None})
        before = at if at is not None else before
    return found


def parts(rows: Iterable[Row], ended: bool, now_ms: int) -> list[Part]:
    """The stretches of a life, of which `rows` is the timeline; up to now for a task
    that has not `ended`, or up to when it is due."""
    found: list[Part] = []
    last, since = "", 0
    for what, at in _bounds(rows, ended, now_ms):
        # Agents guess the server's time to a few ms, so that times may cross.
        at = max(at, since)
        css = _css(last, what) if last else ""
        # An attempt is one, however short.
        if css and (at > since or last == "started"):
            found.append(Part(css, since, at))
        last, since = what, at
    return found


def _bounds(rows: Iterable[Row], ended: bool, now_ms: int) -> Iterable[tuple[str, int]]:
    what = ""
    for row in rows:
        at = now_ms if row["what"] == messages.RUNNING else messages.iso_ms(row["at"])
        if at is not None and row["what"] != _NO_BOUND:
            what = row["what"]
            yield what, at
    if not ended and what not in (messages.RUNNING, "due"):
        yield "now", now_ms


def _css(last: str, what: str) -> str:
    """What lies between two events; empty where it is only how long we took."""
    if last == "started":
        return _RAN.get(what, "ended")
    if last == "failed":
        if what in _LEFT:
            return "dead"
        return "" if what == messages.DEAD else "pause"
    if last == "discarded":
        return "away"
    if last in ("restored", "dead") or (last == "lost" and what in _LEFT):
        return "dead"
    if last not in _QUEUED or (last == "lost" and what == messages.DEAD):
        return ""
    if what in ("due", "run now"):
        return "delay"
    # When it began is known once an attempt has told of itself.
    return "either" if what in (*_RAN, messages.RUNNING) else "wait"


def drawn(rows: Sequence[Row], ended: bool, now_ms: int | None = None) -> Row | None:
    """The drawing: `svg`, its `keys`, when it `begins` and `ends`, how long it is
    (`took_ms`), `wider` than true up to so many ms; None where nothing has lasted."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    found = parts(rows, ended, now_ms)
    if not found or found[0].start_ms == found[-1].end_ms:
        return None
    widths, wider_ms = _widths([part.length_ms for part in found])
    places = [0.0, *accumulate(widths)]
    bars = format_html_join(
        "",
        '<rect class="{}" x="{}" width="{}" y="{}" height="{}">'
        "<title>{}</title></rect>",
        (
            (part.css, f"{x:.2f}", f"{width:.2f}", *_SHAPES[part.css][:2], part.words)
            for part, x, width in zip(found, places, widths, strict=False)
        ),
    )
    return {
        "svg": format_html(
            '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
            'aria-label="{}">{}{}</svg>',
            _WIDE,
            _TALL,
            _words(found),
            bars,
            _now(found[-1], places[-2], widths[-1], now_ms),
        ),
        "keys": [*_keys(found)],
        "begins": messages.iso(found[0].start_ms),
        "ends": messages.iso(found[-1].end_ms),
        "took_ms": found[-1].end_ms - found[0].start_ms,
        "wider_ms": wider_ms,
    }


def _now(part: Part, x: float, width: float, now_ms: int) -> SafeString | str:
    """A mark where we are, in a life that is known to go on."""
    if not part.start_ms < now_ms < part.end_ms:
        return ""
    place = x + width * (now_ms - part.start_ms) / part.length_ms
    return format_html(
        '<rect class="here" x="{}" width="3" y="0" height="{}">'
        "<title>now</title></rect>",
        f"{place:.2f}",
        _TALL,
    )


def _widths(lengths: Sequence[int]) -> tuple[list[float], int]:
    """The width of each part, none too narrow to be seen; up to which length, ms, they
    are wider than true, 0 if all are true."""
    least = min(_LEAST, _WIDE * _CROWDED / len(lengths))
    narrow: set[int] = set()
    while True:
        wide = [at for at in range(len(lengths)) if at not in narrow]
        scale = (_WIDE - least * len(narrow)) / max(sum(lengths[at] for at in wide), 1)
        # To widen these leaves less for the others, of which some become too narrow.
        more = {at for at in wide if lengths[at] * scale < least}
        if not more:
            break
        narrow |= more
    widths = [
        least if at in narrow else length * scale for at, length in enumerate(lengths)
    ]
    return widths, max([1, *(lengths[at] for at in narrow)]) if narrow else 0


def _words(found: Sequence[Part]) -> str:
    told = [part.words for part in found[:_WORDS_MOST]]
    if len(found) > _WORDS_MOST:
        told.append(f"and {len(found) - _WORDS_MOST} more parts")
    return f"To scale: {', then '.join(told)}"


def _keys(found: Sequence[Part]) -> Iterable[tuple[str, str, str]]:
    """Class, word and sum of each kind of part there is."""
    for css, (_, _, word) in _SHAPES.items():
        lengths = [part.length_ms for part in found if part.css == css]
        if lengths:
            times = f", {len(lengths)} times" if len(lengths) > 1 else ""
            yield css, word, f"{formats.ms(sum(lengths))}{times}"
