"""What admins do with a whole topic: limits, purge, settle, delete, each asked first.

GET shows the form with what it will do, POST does it. A second click finds nothing left
to do and says so.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

import bus
from bus import audit, errors, purges, roles, topics
from bus.conf import conf
from dashboard import formats, links
from dashboard.access import confirmed, to
from dashboard.fields import number
from dashboard.frame import shown

# What each limit is called on the page, and what it does.
_LIMITS: Final = {
    "backlog_max": ("Backlog", "live tasks; beyond it new ones are refused"),
    "dead_max": ("Dead letters", "at so many the topic takes no new tasks"),
    "results_keep": ("Results kept", "the newest; older ones are forgotten"),
    "max_attempts": ("Attempts", "then a task is a dead letter"),
    "timeout_s": ("Time limit of an attempt, s", "unless the task has its own"),
}
_LABELS: Final = {name: label for name, (label, _) in _LIMITS.items()}
_OF_HANDLERS: Final = ("max_attempts", "timeout_s")


@confirmed(roles.LIMIT)
def limits(request: HttpRequest, topic: str) -> HttpResponse:
    """Set the limits of a topic; an empty field is the default."""
    row = bus.stats(topics.check_known(topic))
    if request.method != "POST":
        own = topics.own_limits(topic)
        held = {
            name: "" if value is None else str(value) for name, value in own.items()
        }
        return _limits(request, row, held)
    draft = {name: request.POST.get(name, "").strip() for name in _LIMITS}
    try:
        wanted = {name: number(name, text) for name, text in draft.items()}
        with audit.of_changes(partial(_note, request, topic=topic)):
            told = topics.changed(topic, limits=wanted)
    except errors.InvalidOption as exc:
        return _limits(request, row, draft, formats.said(exc, _LABELS))
    for verb, before, after in told:
        _note(request, verb, topic, before=before, after=after)
    if told:
        toasts.success(request, "The limits are set; they hold at once.")
    else:
        toasts.warning(request, "Nothing was changed.")
    return to(links.topic(topic))


def _limits(
    request: HttpRequest, row: dict[str, Any], draft: dict[str, str], wrong: str = ""
) -> HttpResponse:
    fields = [
        {
            "name": name,
            "label": label,
            "hint": hint,
            "value": draft[name],
            "default": _default(name),
        }
        for name, (label, hint) in _LIMITS.items()
    ]
    context = {
        "section": "topics",
        "topic": row["topic"],
        "row": row,
        "fields": fields,
        "wrong": wrong,
    }
    return shown(request, "topic_limits.html", context, status=422 if wrong else 200)


def _default(name: str) -> str:
    """What holds where the field is empty."""
    value = float(getattr(conf, name.upper()))
    default = f"{int(value) if value.is_integer() else value:,}"
    return f"as its handler says, else {default}" if name in _OF_HANDLERS else default


@confirmed(roles.PURGE)
def purge(request: HttpRequest, topic: str) -> HttpResponse:
    """Empty a topic of what waits, of its letters, or of both."""
    row = bus.stats(topics.check_known(topic))
    if request.method != "POST":
        return _purge(request, row)
    what = request.POST.get("what", "")
    if what not in purges.WHAT:
        return _purge(request, row, "Choose what is to go.")
    write = partial(_note, request, roles.PURGE, topic, what=what)
    with audit.of_steps(write):
        counts = bus.purge_topic(topic, what)
    write(**counts)
    toasts.success(request, _emptied(counts))
    return to(links.topic(topic))


def _purge(request: HttpRequest, row: dict[str, Any], wrong: str = "") -> HttpResponse:
    context = {
        "section": "topics",
        "row": row,
        "undo_most": conf.BIN_MAX,
        "wrong": wrong,
    }
    return shown(request, "topic_purge.html", context, status=422 if wrong else 200)


def _emptied(counts: dict[str, int]) -> str:
    words = {
        "cancelled": "{} cancelled",
        "asked": "{} asked to stop",
        "discarded": "{} discarded",
    }
    told = [words[name].format(f"{n:,}") for name, n in counts.items() if n]
    return f"Purged: {', '.join(told)}." if told else "There was nothing to purge."


@confirmed(roles.SETTLE)
def settle(request: HttpRequest, topic: str) -> HttpResponse:
    """Enter what a ledger is off by; the audit looks for what is missing before."""
    row = bus.stats(topics.check_known(topic))
    context = {"section": "topics", "row": row}
    if request.method != "POST":
        return shown(request, "topic_settle.html", context)
    try:
        settled = bus.settle_ledger(topic)
    except errors.Conflict as exc:
        context["wrong"] = formats.said(exc)
        return shown(request, "topic_settle.html", context, status=409)
    if settled:
        _note(request, roles.SETTLE, topic, settled=settled)
        toasts.success(
            request, f"Settled: {settled:+,} is entered, the ledger balances."
        )
    else:
        toasts.warning(request, "Nothing to settle: the ledger balances.")
    return to(links.topic(topic))


@confirmed(roles.DELETE)
def delete(request: HttpRequest, topic: str) -> HttpResponse:
    """Delete a topic with all it holds; its name has to be typed."""
    if request.method == "POST" and topic not in bus.list_topics():
        toasts.warning(request, f"There is no topic {topic[:80]} any more.")
        return redirect("dashboard:topics")
    row = bus.stats(topics.check_known(topic))
    if request.method != "POST":
        return _delete(request, row, 200)
    if request.POST.get("name", "").strip() != topic:
        return _delete(request, row, 422, f"Type its name, {topic}, to delete it.")
    force = "force" in request.POST
    write = partial(_note, request, roles.DELETE, topic, force=force)
    try:
        with audit.of_steps(write):
            counts = bus.delete_topic(topic, force=force)
    except errors.TopicBusy as exc:
        return _delete(request, row, 409, formats.said(exc))
    write(**counts)
    says = "Deleted {}: {:,} cancelled, {:,} discarded."
    text = says.format(topic, counts["cancelled"], counts["discarded"])
    toasts.success(request, text)
    return to(reverse("dashboard:topics"))


def _delete(
    request: HttpRequest, row: dict[str, Any], status: int, wrong: str = ""
) -> HttpResponse:
    context = {
        "section": "topics",
        "row": row,
        "typed": request.POST.get("name", "")[:80],
        "wrong": wrong,
    }
    return shown(request, "topic_delete.html", context, status=status)


def _note(request: Any, verb: str, topic: str, **facts: Any) -> None:
    audit.record(request.principal, verb, topic=topic, target=topic, **facts)
