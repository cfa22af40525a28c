"""All tasks that a list shows, beyond its page: looked for, shown, then cancelled.

What is cancelled is what was shown: the ids travel with the form, so that tasks which
come to match in between are left alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages as toasts
from django.http import HttpResponse
from django.urls import reverse

from bus import audit, errors, messages, roles
from bus.messages import Task
from dashboard import lists, many, search
from dashboard.access import confirmed
from dashboard.frame import shown

# What can be cancelled, what has not begun first: it ends for certain.
_LIVE: Final = (messages.WAITING, messages.DELAYED, messages.RUNNING)
_MOST: Final = 1_500  # a page of them is made in a sixth of a second
_LOOK_S: Final = 1.5  # as a search
_SAMPLE: Final = 10


@dataclass(slots=True)
class Matching:
    """Ids by topic; `whole` says that there were no more to look at."""

    ids: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    sample: list[Task] = field(default_factory=list)
    looked: int = 0
    whole: bool = True

    @property
    def count(self) -> int:
        return sum(self.states.values())

    def add(self, task: Task) -> None:
        self.ids.setdefault(task.topic, []).append(task.id)
        self.states[task.state] = self.states.get(task.state, 0) + 1
        if len(self.sample) < _SAMPLE:
            self.sample.append(task)


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
    """Show the tasks that match now, then cancel these."""
    if request.method == "POST":
        return _cancel(request)
    asked = _asked(request.GET)
    context = {
        "section": "tasks",
        "asked": asked,
        "found": (found := _look(asked)),
        "most": _MOST,
        "packed": _packed(found.ids),
    }
    return shown(request, "cancel_matching.html", context)


def _look(asked: _Asked) -> Matching:
    """The first that match, for a bounded time; one page of tasks in memory at once."""
    _, facts = lists.facts(asked.topic)
    fits = asked.sought.fits
    found, until = Matching(), time.monotonic() + _LOOK_S
    for state in (asked.state,) if asked.state else _LIVE:
        cursor: str | None = None
        while True:
            if found.count >= _MOST or time.monotonic() > until:
                found.whole = False
                return found
            page = lists.tasks_found(facts, fits, state, cursor)
            found.looked += page.looked
            for task in page.tasks[: _MOST - found.count]:
                found.add(task)
            if (cursor := page.next) is None:
                break
    return found


def _packed(ids: dict[str, list[str]]) -> str:
    """One field for all: a form may have a thousand fields at most."""
    return ";".join(" ".join([topic, *each]) for topic, each in ids.items())


def _unpacked(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(";"):
        topic, *ids = part.split()[: _MOST + 1] or [""]
        for task_id in ids:
            yield topic, task_id


def _cancel(request: Any) -> HttpResponse:
    asked = _asked(request.POST)
    chosen = [*_unpacked(request.POST.get("tasks", ""))][:_MOST]
    came: Counter[str] = Counter()
    for topic, states in _by_topic(many.cancelled(chosen)):
        came += states
        counts = {many.CANCELLED_WORDS[state]: n for state, n in states.items()}
        if not states.keys() - {many.ENDED}:
            continue  # nothing was done here
        # One entry for each topic: what was asked for says more than so many ids.
        audit.record(
            request.principal,
            roles.CANCEL,
            topic=topic,
            target=topic,
            state=asked.state,
            text=asked.sought.q,
            **{name: text for name, text in asked.sought.given.items() if name != "q"},
            **counts,
        )
    if came:
        toasts.success(request, f"Of all that matched: {many.cancelled_words(came)}.")
    else:
        toasts.warning(request, "None was left to cancel.")
    return many.to(f"{reverse('dashboard:tasks')}?{asked.query}")


def _by_topic(
    ends: Iterable[tuple[str, str, str]],
) -> Iterable[tuple[str, Counter[str]]]:
    """How many came to what in each topic."""
    found: dict[str, Counter[str]] = {}
    for topic, _, state in ends:
        found.setdefault(topic, Counter())[state] += 1
    return found.items()
