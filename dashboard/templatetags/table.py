"""What long tables draw with: cells and sparklines, made by one call each.

A filter and two conditions per cell would be most of what a page of 200 rows takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from django import template
from django.urls import get_script_prefix
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bus.deaths import Deaths
from dashboard import formats, links
from dashboard.formats import NOTHING
from dashboard.templatetags import mesh

register = template.Library()

register.filter("topic_url", links.topic)
register.filter("dead_url", links.dead_of)
register.filter("agent_url", links.agent)
register.filter("group_url", links.group_of)

_FORMATS: Final[dict[str, Callable[[object], str]]] = {
    "duration": formats.duration,
    "number": formats.number,
    "percent": formats.percent,
    "rate": formats.rate,
    "size": formats.size,
}


@register.simple_tag
def num(label: str, value: object, how: str = "number") -> SafeString:
    """A cell with a number in one of these formats; quiet where it is zero or unknown.

    `label` is ours, and the formats make nothing that would need an escape.
    """
    css = "num" if value else "num zero"
    text = _FORMATS[how](value)
    return SafeString(f'<td class="{css}" data-label="{label}">{text}</td>')


# The numbers of a topic: label and format of each.
_OF_TOPIC: Final = {
    "waiting": ("Waiting", "number"),
    "oldest_s": ("Oldest", "duration"),
    "empty_s": ("Empty in", "duration"),
    "running": ("Running", "number"),
    "delayed": ("Delayed", "number"),
    "done": ("Done", "number"),
    "agents": ("Agents", "number"),
    "done_per_minute": ("Per minute", "rate"),
}


@register.simple_tag
def nums(row: Mapping[str, object], *names: str) -> SafeString:
    """The cells of these numbers of a topic: of 200 topics each tag counts."""
    told = [(name, *_OF_TOPIC[name]) for name in names]
    return SafeString(
        "".join([num(label, row[name], how) for name, label, how in told])
    )


_NAMED_MOST: Final = 3


@register.simple_tag
def served(topics: Sequence[object]) -> SafeString:
    """The first topics of an agent, which may name anything, and how many more."""
    if not topics:
        return _NOTHING
    names = ", ".join([formats.preview(each, 30) for each in topics[:_NAMED_MOST]])
    if len(topics) <= _NAMED_MOST:
        return format_html("{}", names)
    more = len(topics) - _NAMED_MOST
    return format_html('{} <span class="muted">+{}</span>', names, more)


_NOTHING: Final = SafeString(f'<span class="muted">{NOTHING}</span>')


_WIDTH: Final = 96
_HEIGHT: Final = 24
# Half a line's width stays free, so that peaks are not cut.
_LEVELS: Final = [f"{_HEIGHT - 1.5 - level / 10:.1f}" for level in range(10 * _HEIGHT)]
_PEAK: Final = 10 * (_HEIGHT - 3)


@register.simple_tag
def topic_names(topics: Sequence[str]) -> SafeString | str:
    """The first topics of a failure as links, and how many more it met."""
    if len(topics) == 1:
        return mesh.topic_link(topics[0])
    return _names(get_script_prefix(), tuple(topics[:_NAMED_MOST]), len(topics))


@lru_cache(maxsize=1_024)
def _names(below: str, topics: Sequence[str], count: int) -> SafeString:
    """`below` is where the site hangs, as it is part of the links."""
    named = format_html_join(", ", "{}", ((mesh.topic_link(each),) for each in topics))
    if count <= _NAMED_MOST:
        return named
    return format_html('{} <span class="muted">+{}</span>', named, count - _NAMED_MOST)


@register.simple_tag
def died(found: Deaths) -> SafeString:
    """A line over the hours in which letters died."""
    return sparkline(found.hours, "Died", "hour")


@register.simple_tag
def sparkline(points: Sequence[float], what: str, each: str = "minute") -> SafeString:
    """A line over the minutes, drawn by attributes alone, with words for its label."""
    most = max(points, default=0)
    if not most:
        return _NOTHING
    scale = _PEAK / most
    xy = " ".join(
        [
            x + _LEVELS[int(value * scale + 0.5)]
            for x, value in zip(_places(len(points)), points, strict=True)
        ]
    )
    label = f"{what}, last {len(points)} {each}s: 0 to {most:,.0f} per {each}"
    return SafeString(
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" preserveAspectRatio="none" '
        f'aria-label="{label}"><polyline points="{xy}"/></svg>'
    )


@lru_cache(maxsize=16)
def _places(count: int) -> list[str]:
    """Where each of so many points is from left to right."""
    step = _WIDTH / max(count - 1, 1)
    return [f"{at * step:.1f}," for at in range(count)]
