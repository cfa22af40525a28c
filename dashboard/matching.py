"""All tasks that a list shows, beyond its page: looked for, shown, then cancelled.

What is cancelled is what was shown: the ids travel with the form, so that tasks which
come to match in between are left alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages as toasts
from django.http import HttpResponse
from django.urls import reverse

import bus
from bus import audit, errors, messages, roles
from bus.messages import Task
from dashboard import lists, many, search, seeking
from dashboard.access import confirmed, to
from dashboard.frame import shown

# What can be cancelled, what has not begun first: it ends for certain.
_LIVE: Final = (messages.WAITING, messages.DELAYED, messages.RUNNING)
_MOST: Final = 1_500  # a page of them is made in a sixth of a second
_SAMPLE: Final = 10


@dataclass(slots=True)
class Matching:
    """Ids by state and topic."""

    ids: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, state: str, topic: str, *ids: str) -> None:
        self.ids.setdefault((state, topic), []).extend(ids)

    @property
    def count(self) -> int:
        return sum(map(len, self.ids.values()))

    @property
    def states(self) -> dict[str, int]:
        """How many were found in each state."""
        return dict(self._counted(0))

    @property
    def topics(self) -> list[tuple[str, int]]:
        """How many were found in each topic, most first."""
        return self._counted(1).most_common()

    def _counted(self, at: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for place, ids in self.ids.items():
            counts[place[at]] += len(ids)
        return counts

    @property
    def packed(self) -> str:
        """One field for all: a form may have a thousand fields at most."""
        return ";".join(" ".join([*place, *ids]) for place, ids in self.ids.items())


def _unpacked(text: str) -> Matching:
    """What a form brings back, `_MOST` ids of it; nothing for what is no such text."""
    found = Matching()
    for part in text.split(";"):
        words = part.split()
        if len(words) > 2 and words[0] in _LIVE:
            state, topic, *ids = words
            found.add(state, topic, *ids[: _MOST - found.count])
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """The filter of the list, as its address has it."""

    state: str
    topic: str
    sought: search.Sought

    @property
    def query(self) -> str:
        told = {"state": self.state, "topic": self.topic, **self.sought.given}
        return urlencode({name: value for name, value in told.items() if value})


def _asked(form: Any) -> _Asked:
    """InvalidOption for a filter that names nothing, or only tasks that have ended."""
    found = _Asked(form.get("state", ""), form.get("topic", ""), search.of(form))
    if not found.query:
        raise errors.InvalidOption("choose a state, a topic, a text or a time first")
    if found.state and found.state not in _LIVE:
        raise errors.InvalidOption(f"no state to cancel {found.state!r:.40}")
    return found


@confirmed(roles.CANCEL)
def cancel(request: Any) -> HttpResponse:
    """Show the tasks that match now, look for more, or cancel these."""
    if request.method != "POST":
        return _question(request, _asked(request.GET), Matching())
    asked, found = _asked(request.POST), _unpacked(request.POST.get("tasks", ""))
    if "cursor" not in request.POST:
        return _cancel(request, asked, found)
    cursor, so_far = seeking.opened(request.POST["cursor"])
    return _question(request, asked, found, cursor, so_far.looked)


def _question(
    request: Any,
    asked: _Asked,
    found: Matching,
    cursor: str | None = None,
    looked: int = 0,
) -> HttpResponse:
    """What was found until now with what one more moment's look brings."""
    _, facts = lists.facts(asked.topic)
    states = (asked.state,) if asked.state else _LIVE
    room = _MOST - found.count
    page = lists.tasks_page(facts, states, max(1, room), cursor, asked.sought.fits)
    known = {(topic, each) for (_, topic), ids in found.ids.items() for each in ids}
    # One that waited before may run by now, also within one look.
    seen = {(task.topic, task.id): task for task in page.tasks}
    fresh = [task for place, task in seen.items() if place not in known]
    for task in fresh[:room]:
        found.add(task.state, task.topic, task.id)
    so_far = seeking.SoFar(found.count, looked + page.looked)
    context = {
        "section": "tasks",
        "asked": asked,
        "found": found,
        "so_far": so_far,
        "whole": page.next is None and len(fresh) <= room,
        "part": so_far.part(page.next, _MOST),
        "most": _MOST,
        "sample": [*_sample(found)],
    }
    return shown(request, "cancel_matching.html", context)


def _sample(found: Matching) -> Iterator[Task]:
    """The first of them, as they are now."""
    ids = ((each, topic) for (_, topic), many in found.ids.items() for each in many)
    for task_id, topic in islice(ids, _SAMPLE):
        with contextlib.suppress(errors.InvalidName, errors.TaskNotFound):
            yield bus.get_task(task_id, topic)


def _cancel(request: Any, asked: _Asked, found: Matching) -> HttpResponse:
    chosen = [
        (topic, task_id) for (_, topic), ids in found.ids.items() for task_id in ids
    ]
    ends: dict[str, Counter[str]] = {}
    try:
        for topic, _, state in many.cancelled(chosen):
            ends.setdefault(topic, Counter())[state] += 1
            request.partly = True
    finally:
        # Should Redis go away on the way, what was done is on the trail.
        for topic, states in ends.items():
            _note(request, asked, topic, states)
    came = sum(ends.values(), Counter[str]())
    if came:
        toasts.success(request, f"Of all that matched: {many.cancelled_words(came)}.")
    else:
        toasts.warning(request, "None was left to cancel.")
    return to(f"{reverse('dashboard:tasks')}?{asked.query}")


def _note(request: Any, asked: _Asked, topic: str, states: Counter[str]) -> None:
    """One entry for a topic: what was asked for says more than so many ids."""
    if not states.keys() - {many.ENDED}:
        return  # nothing was done here
    audit.record(
        request.principal,
        roles.CANCEL,
        topic=topic,
        target=topic,
        state=asked.state,
        text=asked.sought.q,
        **{name: text for name, text in asked.sought.given.items() if name != "q"},
        **{many.CANCELLED_WORDS[state]: n for state, n in states.items()},
    )
