"""A dead letter replayed with another payload, after a look at what differs."""

from __future__ import annotations

import difflib
import json
from itertools import takewhile
from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

import bus
from bus import audit, decisions, errors, exact, messages, roles, words
from bus.letters import DeadLetter
from bus.tasks import new_id
from dashboard import formats, links
from dashboard.access import confirmed, to
from dashboard.frame import shown

# Beyond so many lines that differ they stand one after the other, not side by side:
# to align them takes time that grows with their square.
_ALIGNED_MOST: Final = 1_000
_AROUND: Final = 3  # lines that are the same, before and after
_SHOWN_MOST: Final = 2_000

Line = tuple[str, str]  # what it is (same, gone, new, skip), and its text


@confirmed(roles.REPLAY)
def edit(request: Any, task_id: str) -> HttpResponse:
    """Show the payload to edit, then what differs, then replay with it."""
    topic = request.POST.get("topic") or request.GET.get("topic") or None
    try:
        letter = bus.get_dead(task_id, topic)
    except errors.DeadLetterNotFound:
        task = bus.get_task(task_id, topic)
        if request.method == "POST" and not _mine(request, task):
            says = "Not replayed: the task is {} now."
            toasts.warning(request, format_html(says, task.state))
        return to(links.task(task.id, task.topic))
    if request.method != "POST":
        return _form(request, letter, _text(_exactly(letter)))
    text = request.POST.get("payload", "")
    try:
        payload = exact.read(text, "the payload")
        messages.encode(payload)  # too deep or too large is told before, not after
    except (errors.DecodeError, errors.InvalidPayload) as exc:
        return _form(request, letter, text, formats.said(exc))
    if "sure" in request.POST:
        return _replay(request, letter, payload)
    if messages.same(payload, letter.payload):
        says = "This is the payload it has: change it, or replay it as it is."
        return _form(request, letter, text, says)
    return _review(request, letter, payload)


def _mine(request: Any, task: bus.Task) -> bool:
    """Whether the task is where the first of two clicks brought it."""
    seen = request.POST.get("entry")
    by = request.principal.name
    return any(
        each.get("letter") == seen and each.get("by") == by for each in task.replays
    )


def _form(
    request: HttpRequest, letter: DeadLetter, text: str, wrong: str = ""
) -> HttpResponse:
    context = {"section": "dead", "letter": letter, "text": text, "wrong": wrong}
    return shown(request, "edit.html", context, status=422 if wrong else 200)


def _review(request: HttpRequest, letter: DeadLetter, payload: Any) -> HttpResponse:
    text = _text(payload)
    found = differing(_text(_exactly(letter)), text)
    context = {
        "section": "dead",
        "letter": letter,
        "text": text,
        "lines": found[:_SHOWN_MOST],
        "more": max(0, len(found) - _SHOWN_MOST),
        "click": new_id(),  # tells a second click from a second wish
    }
    return shown(request, "edit_review.html", context)


def _replay(request: Any, letter: DeadLetter, payload: Any) -> HttpResponse:
    who, url = request.principal, links.task(letter.id, letter.topic)
    seen = request.POST.get("entry") or letter.entry_id
    click = request.POST.get("click") or None
    try:
        did = decisions.replayed(
            letter.id, letter.topic, payload, seen, who.name, click
        )
    except (errors.Conflict, errors.NotFound):
        task = bus.get_task(letter.id, letter.topic)
        says = "Not replayed: somebody was first. The task is {} now."
        toasts.warning(request, format_html(says, task.state))
        return to(url)
    if did:
        audit.record(
            who,
            roles.REPLAY,
            topic=letter.topic,
            target=letter.id,
            before=letter.payload,
            after=payload,
            edited=True,
        )
        says = 'Replayed with its new payload: <a href="{}">the task</a> is back in {}.'
        toasts.success(request, format_html(says, url, letter.topic))
    return to(url)


def _exactly(letter: DeadLetter) -> Any:
    """Its payload without rounding, which `letter.payload` has beyond 64 bits."""
    text = decisions.body(letter).decode()
    rounded = exact.is_rounded(text, letter.payload)
    return json.loads(text) if rounded else letter.payload


def _text(payload: Any) -> str:
    """The whole payload over several lines, to be edited and read back."""
    return json.dumps(payload, ensure_ascii=False, indent=2)


def differing(old: str, new: str) -> list[Line]:
    """What differs between two texts, line by line, with a few lines around it."""
    before, after = old.split("\n"), new.split("\n")
    head = _common(before, after)
    rest, other = before[head:], after[head:]
    tail = _common(rest[::-1], other[::-1])
    gone, came = rest[: len(rest) - tail], other[: len(other) - tail]
    found: list[Line] = []
    if head > _AROUND:
        found.append(("skip", f"{words.count(head - _AROUND, 'line')} the same"))
    found += [("same", line) for line in before[max(0, head - _AROUND) : head]]
    found += _changed(gone, came)
    ends = before[len(before) - tail :]
    found += [("same", line) for line in ends[:_AROUND]]
    if tail > _AROUND:
        found.append(("skip", f"{words.count(tail - _AROUND, 'line')} the same"))
    return found


def _common(one: list[str], other: list[str]) -> int:
    """How many lines are the same from the start."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _changed(gone: list[str], came: list[str]) -> list[Line]:
    if len(gone) + len(came) > _ALIGNED_MOST:
        return [*(("gone", line) for line in gone), *(("new", line) for line in came)]
    kinds = {"- ": "gone", "+ ": "new", "  ": "same"}
    steps = difflib.Differ().compare(gone, came)
    # Differ also marks letters ("? "), of which a screen reader has nothing.
    return [(kinds[step[:2]], step[2:]) for step in steps if step[:2] in kinds]
