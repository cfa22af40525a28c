"""What is done with many tasks at once: rows that are ticked, letters of a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

import bus
from bus import audit, errors, messages, purges, records, replays, roles
from dashboard import alike, bulk
from dashboard.access import action, back_of, confirmed, to
from dashboard.frame import shown

_MOST = 500  # a page has 50 rows, of a search up to 249, a live one 500


def _rows(request: HttpRequest, name: str) -> list[tuple[str, str]]:
    """Topic and task id of the rows that are ticked, each as `topic id`."""
    found = [each.partition(" ") for each in request.POST.getlist(name)]
    return [(topic, task_id) for topic, _, task_id in found][:_MOST]


ENDED: Final = "ended"
CANCELLED_WORDS: Final = {
    messages.CANCELLED: "cancelled",
    messages.RUNNING: "told to stop",
    ENDED: "had ended before",
}


def cancelled(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Cancel tasks (topic, id) one by one, each with its state then, or ENDED."""
    for topic, task_id in rows:
        try:
            state = bus.cancel(task_id, topic)
        except (errors.NotCancellable, errors.NotFound, errors.InvalidName):
            state = ENDED
        yield topic, task_id, state


def cancelled_words(came: Counter[str]) -> str:
    """How many came to what, as part of a sentence; empty for none."""
    return ", ".join(
        f"{came[end]:,} {words}" for end, words in CANCELLED_WORDS.items() if came[end]
    )


@action(roles.CANCEL)
def cancel(request: Any) -> HttpResponse:
    """Cancel tasks; those that run end when their agents hear of it."""
    came: Counter[str] = Counter()
    for topic, task_id, state in cancelled(_rows(request, "task")):
        came[state] += 1
        request.partly = True
        if state != ENDED:
            audit.record(request.principal, roles.CANCEL, topic=topic, target=task_id)
    if came:
        toasts.success(request, f"Of those ticked: {cancelled_words(came)}.")
    else:
        toasts.warning(request, "Tick the tasks to cancel first.")
    return to(back_of(request, reverse("dashboard:tasks")))


@confirmed(roles.DISCARD)
def discard(request: Any) -> HttpResponse:
    """Ask, then put dead letters away; each can be brought back for an hour."""
    back = back_of(request, reverse("dashboard:dead"))
    letters = _rows(request, "letter")
    if not letters:
        toasts.warning(request, "Tick the letters to discard first.")
        return to(back)
    if "sure" not in request.POST:
        context = {"section": "dead", "letters": letters, "next": back}
        context["nameless"] = any(records.is_sid(name) for _, name in letters)
        return shown(request, "discard_ticked.html", context)
    gone, before = 0, 0
    for topic, task_id in letters:
        try:
            purges.put_away(topic, task_id)
        except (errors.NotDead, errors.NotFound, errors.InvalidName):
            before += 1
            continue
        gone += 1
        request.partly = True
        audit.record(request.principal, roles.DISCARD, topic=topic, target=task_id)
    told = f"{_discarded(gone)} {before:,} were gone before." if before else ""
    toasts.success(request, told or _discarded(gone))
    return to(back)


def _discarded(count: int) -> str:
    return f"Discarded: {count:,}. Each can be brought back for an hour, on its page."


@confirmed(roles.DISCARD)
def discard_alike(request: Any, fingerprint: str) -> HttpResponse:
    """Ask, then put all letters of one failure away, as they are then."""
    topic = request.POST.get("topic") or request.GET.get("topic") or ""
    groups = alike.group(topic, fingerprint)
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
        write = partial(_put_away_alike, request, group["topic"], fingerprint)
        with audit.of_steps(write):
            count = purges.discard_alike(group["topic"], fingerprint)
        write(count)
        gone += count
    if gone:
        toasts.success(request, _discarded(gone))
    else:
        toasts.warning(request, "There was none left to discard.")
    return to(reverse("dashboard:dead"))


def _put_away_alike(
    request: Any, topic: str, fingerprint: str, discarded: int, **facts: Any
) -> None:
    if discarded:
        request.partly = True
        who, facts = request.principal, {"letters": discarded, **facts}
        audit.record(who, roles.DISCARD, topic=topic, target=fingerprint, **facts)


@confirmed(roles.DISCARD)
def discard_chosen(request: Any, job_id: str) -> HttpResponse:
    """Ask, then put the frozen letters away instead of replaying them."""
    try:
        found = replays.get(job_id)
    except replays.ReplayNotFound:
        if request.method != "POST":
            raise
        toasts.warning(request, "This choice was put away before.")
        return to(reverse("dashboard:dead"))
    if found.state != "frozen":
        toasts.warning(
            request, f"This bulk replay is {found.state}: too late for that."
        )
        return to(bulk.url_of(found.id))
    if request.method != "POST":
        context = {
            "section": "dead",
            "job": found,
            "words": bulk.words(found.selection),
        }
        return shown(request, "bulk_discard.html", context)

    def note(topic: str, letters: int) -> None:
        if letters:
            request.partly = True
            who, facts = request.principal, {"selection": found.selection}
            audit.record(
                who,
                roles.DISCARD,
                topic=topic,
                target=found.id,
                letters=letters,
                **facts,
            )

    gone = replays.discard(found.id, note)
    toasts.success(request, _discarded(gone))
    return to(reverse("dashboard:dead"))
