"""What templates draw with: icons, states, links, times, and formats."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Sequence
from typing import Any, Final

from django import template
from django.templatetags.static import static
from django.urls import NoReverseMatch
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString

from bus import messages
from bus.letters import DeadLetter
from dashboard import formats, links, status
from dashboard.formats import NOTHING, duration, preview, short

register = template.Library()

for _each in (
    *(formats.duration, formats.ms, formats.number, formats.compact, formats.rate),
    *(formats.size, formats.short, formats.preview, formats.pretty, formats.percent),
    *(formats.error_line, formats.change, formats.shown_json),
):
    register.filter(_each.__name__, _each)
register.simple_tag(formats.curl)


@register.simple_tag
@functools.lru_cache(maxsize=256)
def icon(name: str) -> SafeString:
    """A symbol of the sprite, for eyes only: words always stand beside it."""
    return format_html(
        '<svg class="icon" width="16" height="16" aria-hidden="true">'
        '<use href="{}#{}"></use></svg>',
        static("dashboard/icons/sprite.svg"),
        name,
    )


@register.simple_tag
def task_state(state: object) -> SafeString:
    """A task's state as icon and word."""
    return _pill(status.of_task(state))


@register.simple_tag
def state_link(state: object, topic: object) -> SafeString:
    """A task's state, linked to the tasks of its topic that are in it."""
    pill = task_state(state)
    if state not in messages.STATES or not isinstance(topic, str):
        return pill  # rows by hand may hold anything
    says = f"All {state} tasks of this topic"
    url = links.tasks_of(str(state), topic)
    return format_html('<a href="{}" title="{}">{}</a>', url, says, pill)


@register.simple_tag
def failure_link(letter: DeadLetter) -> SafeString:
    """What a letter died of, linked to those that failed alike."""
    text = preview(formats.error_line(letter.error), 160)
    if not letter.fingerprint:  # a letter by hand
        return format_html('<span class="failed">{}</span>', text)
    url = links.group_of(letter.fingerprint, letter.topic)
    says = "Letters that failed alike"
    return format_html('<a class="failed" href="{}" title="{}">{}</a>', url, says, text)


@register.simple_tag
def agent_state(state: object) -> SafeString:
    """An agent's state as icon and word."""
    return _pill(status.of_agent(state))


@register.simple_tag
def replay_state(state: object) -> SafeString:
    """A bulk replay's state as icon and word."""
    return _pill(status.of_replay(state))


@register.filter
def agent_icon(state: object) -> str:
    """The icon's name of an agent's state."""
    return status.of_agent(state).icon


@register.filter
def agent_tone(state: object) -> str:
    """The tone of an agent's state."""
    return status.of_agent(state).tone


@register.filter
def agent_says(state: object) -> str:
    """An agent's state in a few words, which follow "it"."""
    return status.of_agent(state).says


@register.filter
def replay_icon(state: object) -> str:
    """The icon's name of a bulk replay's state."""
    return status.of_replay(state).icon


@register.filter
def replay_tone(state: object) -> str:
    """The tone of a bulk replay's state."""
    return status.of_replay(state).tone


@register.filter
def outcome_tone(what: object) -> str:
    """The tone of what came of a letter."""
    return status.OUTCOMES.get(str(what), "off")


@register.filter
def state_icon(state: object) -> str:
    """The icon's name of a task's state."""
    return status.of_task(state).icon


@register.filter
def tone(what: object) -> str:
    """The tone of a task's state or of an event of its life."""
    return status.EVENTS.get(str(what)) or status.of_task(what).tone


@register.filter
def replayed(attempts: Sequence[dict[str, Any]]) -> bool:
    """Whether attempts stem from more than one life of the task."""
    return len({str(attempt.get("epoch")) for attempt in attempts}) > 1


@functools.lru_cache(maxsize=256)
def _pill(found: status.Status) -> SafeString:
    return format_html(
        '<span class="state" data-tone="{}" title="{}">{}{}</span>',
        found.tone,
        found.says,
        icon(found.icon),
        found.word,
    )


def _link(url_of: Any, value: object, topic: object, css: str) -> SafeString | str:
    """The id as a link, or as text where it is none of ours: rows by hand may hold
    anything."""
    if not isinstance(value, str) or not isinstance(topic, str) or not value:
        return preview(value, 60) if value else NOTHING
    try:
        url = url_of(value, topic)
    except NoReverseMatch:
        return short(value)
    return format_html(
        '<a class="{}" href="{}" title="{}">{}</a>', css, url, value, whole_id(value)
    )


@register.filter
def whole_id(value: str) -> SafeString | str:
    """An id with its middle out of sight: ids of one second begin alike."""
    if len(value) <= 18:
        return value
    return format_html(
        '{}<span class="mid"><span>{}</span></span>{}',
        value[:8],
        value[8:-6],
        value[-6:],
    )


@register.simple_tag
def task_link(task_id: object, topic: object) -> SafeString | str:
    """A task's short id, linked to its page."""
    return _link(links.task, task_id, topic, "id")


@register.simple_tag
def letter_link(task_id: object, topic: object) -> SafeString | str:
    """A dead letter's short id, linked to its page; by hand it may have none."""
    if task_id and not is_task_id(task_id):
        return preview(task_id, 60)
    return _link(links.letter, task_id, topic, "id")


@register.simple_tag
def topic_link(topic: object) -> SafeString | str:
    """A topic's name, linked to its page."""
    if not isinstance(topic, str) or not topic:
        return preview(topic, 60)
    try:
        url = links.topic(topic)
    except NoReverseMatch:
        return preview(topic, 100)
    return _linked(url, topic)


@functools.lru_cache(maxsize=1_024)
def _linked(url: str, text: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', url, text)


@register.simple_tag
def agent_link(agent_id: object) -> SafeString | str:
    """An agent's id, linked to its page."""
    if not isinstance(agent_id, str) or not agent_id:
        return NOTHING
    try:
        url = links.agent(agent_id)
    except NoReverseMatch:
        return agent_id[:60]
    return format_html(
        '<a class="clip" href="{}" title="{}">{}</a>', url, agent_id, agent_id
    )


@register.filter
def is_task_id(value: object) -> bool:
    """Whether the calls by id would take it; letters by hand may have any id."""
    try:
        return str(uuid.UUID(str(value))) == value
    except ValueError:
        return False


@register.filter
def when(at: object) -> SafeString | str:
    """A time of the mesh as text in UTC; scripts turn it into "12 s ago"."""
    if not isinstance(at, str) or messages.iso_ms(at) is None:
        return NOTHING
    at = escape(at)  # once: long tables have two of them in each row
    day, _, clock = at.removesuffix("Z").partition("T")
    return SafeString(
        f'<time datetime="{at}" title="{day} {clock} UTC">'
        f"{day} {clock.partition('.')[0]}</time>"
    )


@register.filter
def entry_when(entry_id: object) -> SafeString | str:
    """The time that a stream's entry id carries."""
    try:
        return when(messages.iso(messages.entry_ms(str(entry_id))))
    except ValueError:
        return NOTHING


@register.filter
def clock(at: object) -> SafeString | str:
    """A time of the mesh down to the ms, as timelines show it."""
    if not isinstance(at, str) or messages.iso_ms(at) is None:
        return NOTHING
    day, _, clock_text = at.removesuffix("Z").partition("T")
    return format_html(
        '<time datetime="{}" data-absolute title="{} {} UTC">{}</time>',
        at,
        day,
        clock_text,
        clock_text,
    )


_ISO: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")


@register.filter
def sentence(text: str) -> SafeString:
    """A sentence of the bus with its times as one reads them, in UTC."""
    parts = _ISO.split(text)
    return format_html_join("", "{}", ((_readable(part),) for part in parts))


def _readable(part: str) -> SafeString | str:
    if not _ISO.fullmatch(part):
        return part
    day, _, clock_text = part.removesuffix("Z").partition("T")
    text = f"{day} {clock_text.partition('.')[0]} UTC"
    return format_html('<time datetime="{}" data-absolute>{}</time>', part, text)


@register.filter
def took(row: dict[str, Any]) -> str:
    """How long a row's attempt ran: from `started_at` to `finished_at`."""
    began = messages.iso_ms(row.get("started_at"))
    ended = messages.iso_ms(row.get("finished_at"))
    if began is None or ended is None:
        return NOTHING
    return duration(max(0, ended - began) / 1000)
