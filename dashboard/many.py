"""What is done with many tasks at once: rows that are ticked, letters of a failure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

import bus
from bus import audit, errors, messages, purges, roles
from dashboard import lists
from dashboard.access import action, back_of, confirmed
from dashboard.frame import shown

_MOST = 200  # a page has 50 rows, a live one up to 500; beyond that a filter is meant


def _rows(request: HttpRequest, name: str) -> list[tuple[str, str]]:
    """Topic and task id of the rows that are ticked, each as `topic id`."""
    found = [each.partition(" ") for each in request.POST.getlist(name)]
    return [(topic, task_id) for topic, _, task_id in found][:_MOST]


def _to(url: str) -> HttpResponse:
    return HttpResponse(status=303, headers={"Location": url})


@action(roles.CANCEL)
def cancel(request: Any) -> HttpResponse:
    """Cancel tasks; those that run end when their agents hear of it."""
    came: Counter[str] = Counter()
    for topic, task_id in _rows(request, "task"):
        try:
            state = bus.cancel(task_id, topic)
        except (errors.NotCancellable, errors.NotFound, errors.InvalidName):
            came["ended"] += 1
            continue
        came[state] += 1
        audit.record(request.principal, roles.CANCEL, topic=topic, target=task_id)
    told = [
        f"{came[what]:,} {words}"
        for what, words in (
            (messages.CANCELLED, "cancelled"),
            (messages.RUNNING, "told to stop"),
            ("ended", "had ended before"),
        )
        if came[what]
    ]
    if told:
        toasts.success(request, f"Of those ticked: {', '.join(told)}.")
    else:
        toasts.warning(request, "Tick the tasks to cancel first.")
    return _to(back_of(request, reverse("dashboard:tasks")))


@confirmed(roles.DISCARD)
def discard(request: Any) -> HttpResponse:
    """Ask, then put dead letters away; each can be brought back for an hour."""
    back = back_of(request, reverse("dashboard:dead"))
    letters = _rows(request, "letter")
    if not letters:
        toasts.warning(request, "Tick the letters to discard first.")
        return _to(back)
    if "sure" not in request.POST:
        context = {"section": "dead", "letters": letters, "next": back}
        return shown(request, "discard_ticked.html", context)
    gone, before = 0, 0
    for topic, task_id in letters:
        try:
            bus.discard(task_id, topic)
        except (errors.NotDead, errors.NotFound, errors.InvalidName):
            before += 1
            continue
        gone += 1
        audit.record(request.principal, roles.DISCARD, topic=topic, target=task_id)
    told = f"{_discarded(gone)} {before:,} were gone before." if before else ""
    toasts.success(request, told or _discarded(gone))
    return _to(back)


def _discarded(count: int) -> str:
    return f"Discarded: {count:,}. Each can be brought back for an hour, on its page."


@confirmed(roles.DISCARD)
def discard_alike(request: Any, fingerprint: str) -> HttpResponse:
    """Ask, then put all letters of one failure away, as they are then."""
    topic = request.POST.get("topic") or request.GET.get("topic") or ""
    groups = lists.group(topic, fingerprint)
    if request.method != "POST":
        if not groups:
            raise errors.NotFound("no dead letters of this failure (any more)")
        context = {
            "section": "dead",
            "groups": groups,
            "error": groups[0]["error"],
            "count": sum(group["count"] for group in groups),
            "fingerprint": fingerprint,
            "topic": topic,
        }
        return shown(request, "discard_alike.html", context)
    gone = 0
    for group in groups:
        count = purges.discard_alike(group["topic"], fingerprint)
        if count:
            who, facts = request.principal, {"letters": count}
            audit.record(
                who, roles.DISCARD, topic=group["topic"], target=fingerprint, **facts
            )
        gone += count
    if gone:
        says = (
            f"Discarded: {gone:,}. Each can be brought back for an hour, on its page."
        )
        toasts.success(request, says)
    else:
        toasts.warning(request, "There was none left to discard.")
    return _to(reverse("dashboard:dead"))
