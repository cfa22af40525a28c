"""What the hot calls mean, whichever door they come through.

Pure functions over what was read and what the mesh said: the views and the express lane
only fetch the one and send the other, each in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from bus import errors, roles
from bus.tasks import Accepted, Wanted

from . import exceptions, parsing, permissions
from .problems import Problem
from .schema import PREFIX


class Answer(NamedTuple):
    """A success on its way out."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = {}


def enqueue(who: roles.Principal, value: Any, key: str | None) -> parsing.Enqueue:
    """A task from a body, whose token reaches its topic; Problem, InvalidPayload."""
    sent = parsing.enqueue(value, key, who.key)
    permissions.check_topic(who, sent.topic)
    return sent


def enqueued(topic: str, outcome: Accepted, level: str) -> Answer:
    """201, or 200 for a repeat, as durable as `level`; raises why it was refused."""
    if outcome.error is not None:
        raise _refused(outcome)
    place = {"Location": f"{PREFIX}/tasks/{outcome.id}?topic={topic}"}
    return Answer(201 if outcome.new else 200, _row(topic, outcome, level), place)


class Batch:
    """Tasks of one call, each right or wrong by itself: read first, then settled."""

    def __init__(self, who: roles.Principal, value: Any, key: str | None) -> None:
        self._found: dict[int, dict[str, Any]] = {}
        self._by_level: dict[str | None, list[tuple[int, parsing.Enqueue]]] = {}
        key = parsing.batch_key(key)
        for index, each in enumerate(parsing.batch(value)):
            own = isinstance(each, dict) and "id" in each
            try:
                if isinstance(each, errors.InvalidPayload):
                    raise each
                place = None if key is None or own else f"{key}/{index}"
                sent = enqueue(who, each, place)
            except (Problem, errors.BusError) as exc:
                self._found[index] = _failure(exc)
            else:
                self._by_level.setdefault(sent.durability, []).append((index, sent))

    def levels(self) -> Iterator[tuple[str | None, list[tuple[str, Wanted]]]]:
        """The tasks to send for each level of durability that was asked for."""
        for level, placed in self._by_level.items():
            yield level, [(sent.topic, sent.wanted) for _, sent in placed]

    def refuse(self, level: str | None, exc: errors.BusError) -> None:
        """An error of the level, and so of each of its tasks."""
        for index, _ in self._by_level[level]:
            self._found[index] = _failure(exc)

    def settle(self, level: str | None, outcomes: list[Accepted], reached: str) -> None:
        """What became of the tasks of a level, in their order."""
        placed = zip(self._by_level[level], outcomes, strict=True)
        for (index, sent), outcome in placed:
            if outcome.error is not None:
                self._found[index] = _failure(_refused(outcome))
                continue
            status = 201 if outcome.new else 200
            row = _row(sent.topic, outcome, reached)
            self._found[index] = {"status": status, **row}

    def answer(self) -> Answer:
        """A result for each task, in the order they came in."""
        found = self._found
        rows = [{"index": index, **found[index]} for index in sorted(found)]
        return Answer(200, {"results": rows})


def _row(topic: str, outcome: Accepted, level: str) -> dict[str, Any]:
    """What a success means: which task, where, how it stands, how safe it is."""
    return {
        "id": outcome.id,
        "topic": topic,
        "state": outcome.state,
        "durability": level,
    }


def _refused(outcome: Accepted) -> Exception:
    """The error of a refused task, with the id to send it again where that helps."""
    assert outcome.error is not None
    problem = exceptions.problem_of(outcome.error)
    if problem is None:
        return outcome.error
    if isinstance(outcome.error, errors.OutcomeUnknown):
        problem.extra["id"] = outcome.id
    return problem


def _failure(exc: Exception) -> dict[str, Any]:
    """A refused task as a result of the batch."""
    problem = exceptions.problem_of(exc)
    if problem is None:
        raise exc
    return {"status": problem.status, "error": problem.document()}
