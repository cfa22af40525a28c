"""Forms that change something: each one audited, told about, and safe to click twice.

A second click meets what the first one did and says so; nothing happens twice. A replay
names the letter it saw: one that died again in between has another entry id.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

import bus
from bus import again, agents, audit, errors, messages, roles, topics
from dashboard import formats, links
from dashboard.access import action, back_of, confirmed, to
from dashboard.frame import shown


def _back(request: HttpRequest, default: str) -> HttpResponse:
    return to(back_of(request, default))


def _topic(request: HttpRequest) -> str | None:
    return request.POST.get("topic") or request.GET.get("topic") or None


@action(roles.REPLAY)
def replay(request: Any, task_id: str) -> HttpResponse:
    """Put a dead letter back to work."""
    topic = _topic(request)
    try:
        letter = bus.get_dead(task_id, topic)
        seen = request.POST.get("entry") or letter.entry_id
        by = request.principal.name
        bus.replay(letter.id, letter.topic, entry_id=seen, by=by)
    except (errors.NotDead, errors.DeadLetterNotFound):
        # Known, but no letter: the first click of two, or somebody else's.
        task = bus.get_task(task_id, topic)
        says = "Not replayed: {} first. The task is {} now."
        toasts.warning(request, format_html(says, _first(request, task), task.state))
        return _back(request, links.task(task.id, task.topic))
    audit.record(request.principal, roles.REPLAY, topic=letter.topic, target=letter.id)
    url = links.task(letter.id, letter.topic)
    says = 'Replayed: <a href="{}">the task</a> is back in {}.'
    toasts.success(request, format_html(says, url, letter.topic))
    return _back(request, url)


def _first(request: Any, task: bus.Task) -> str:
    """Who replayed the letter that the form was rendered with, for a sentence."""
    seen = request.POST.get("entry")
    by = [each.get("by") for each in task.replays if each.get("letter") == seen]
    if by and by[-1] == request.principal.name:
        return "your click before was"
    return f"{by[-1] if by and by[-1] else 'somebody'} was"


@confirmed(roles.DISCARD)
def discard(request: Any, task_id: str) -> HttpResponse:
    """Ask, then put a dead letter away."""
    topic = _topic(request)
    if request.method != "POST":
        letter = bus.get_dead(task_id, topic)
        context = {"section": "dead", "letter": letter, "next": back_of(request, "")}
        return shown(request, "discard.html", context)
    task = bus.get_task(task_id, topic)
    url = links.letter(task.id, task.topic)
    if task.state == messages.DISCARDED:
        return _back(request, url)  # the second click
    try:
        bus.discard(task.id, task.topic)
    except (errors.NotDead, errors.DeadLetterNotFound):
        task = bus.get_task(task.id, task.topic)
        says = "Not discarded: the task is {} now."
        toasts.warning(request, format_html(says, task.state))
        return _back(request, links.task(task.id, task.topic))
    audit.record(request.principal, roles.DISCARD, topic=task.topic, target=task.id)
    says = 'Discarded. <a href="{}">Undo</a> is possible for an hour.'
    toasts.success(request, format_html(says, url))
    return _back(request, url)


@action(roles.UNDO)
def undo(request: Any, task_id: str) -> HttpResponse:
    """Bring a discarded letter back."""
    task = bus.get_task(task_id, _topic(request))
    url = links.letter(task.id, task.topic)
    try:
        bus.undo(task.id, task.topic)
    except (errors.DeadLetterNotFound, errors.Conflict) as exc:
        now = bus.get_task(task.id, task.topic)
        if now.state != messages.DEAD:  # else the second click
            toasts.warning(request, formats.said(exc))
        return _back(request, url)
    audit.record(request.principal, roles.UNDO, topic=task.topic, target=task.id)
    toasts.success(request, "Undone: the dead letter is back.")
    return _back(request, url)


@action(roles.CANCEL)
def cancel(request: Any, task_id: str) -> HttpResponse:
    """Cancel a task; one that runs ends when its agent hears of it."""
    task = bus.get_task(task_id, _topic(request))
    url = links.task(task.id, task.topic)
    try:
        state = bus.cancel(task.id, task.topic)
    except errors.NotCancellable as exc:
        toasts.warning(request, formats.said(exc))
        return _back(request, url)
    audit.record(request.principal, roles.CANCEL, topic=task.topic, target=task.id)
    if state == messages.CANCELLED:
        toasts.success(request, "Cancelled.")
    else:
        text = "Its agent is told to stop; a result that is quicker still counts."
        toasts.success(request, text)
    return _back(request, url)


@action(roles.RUN)
def run(request: Any, task_id: str) -> HttpResponse:
    """Start a delayed task now, or send one that has ended again, once per form."""
    task = bus.get_task(task_id, _topic(request))
    who, click = request.principal, request.POST.get("click") or None
    try:
        ran, did = again.ran(task.id, task.topic, who.name, who.key, click)
    except (again.NotRunnable, errors.InvalidPayload, errors.TopicFull) as exc:
        toasts.warning(request, formats.said(exc))
        return _back(request, links.task(task.id, task.topic))
    once_more = ran != task.id
    if did:
        detail = {"again": ran} if once_more else {}
        audit.record(who, roles.RUN, topic=task.topic, target=task.id, **detail)
    says = "It runs again as this task." if once_more else "It starts now."
    toasts.success(request, says)
    return _back(request, links.task(ran, task.topic))


@action(roles.PAUSE)
def pause(request: Any, topic: str) -> HttpResponse:
    """Start no more tasks of a topic."""
    return _set_paused(request, topic, True)


@action(roles.PAUSE)
def resume(request: Any, topic: str) -> HttpResponse:
    """Start tasks of a topic again."""
    return _set_paused(request, topic, False)


def _set_paused(request: Any, topic: str, paused: bool) -> HttpResponse:
    url = links.topic(topic)
    topics.check_known(topic)
    note = partial(audit.record, request.principal, topic=topic, target=topic)
    with audit.of_changes(note):
        told = topics.changed(topic, paused=paused)
    for verb, before, after in told:  # nothing for the second click
        note(verb, before=before, after=after)
        ends = "{} is paused: running tasks end, no other starts."
        says = ends if paused else "{} runs again."
        toasts.success(request, format_html(says, topic))
    return _back(request, url)


@action(roles.DRAIN)
def drain(request: Any, agent_id: str) -> HttpResponse:
    """Have an agent finish what it has in hand, and end."""
    url = links.agent(agent_id)
    if agents.get_agent(agent_id)["state"] == "draining":
        return _back(request, url)  # the second click
    agents.drain_agent(agent_id)
    audit.record(request.principal, roles.DRAIN, target=agent_id)
    says = "{} takes nothing more: it finishes what it has in hand, then ends."
    toasts.success(request, format_html(says, agent_id))
    return _back(request, url)
