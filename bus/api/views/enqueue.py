"""Tasks on their way in, one or up to a thousand."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import errors, levels, roles, tasks
from bus.tasks import Accepted

from .. import examples, exceptions, parsing, permissions, serializers
from ..problems import Problem
from .base import MeshViewSet, location


class EnqueueViewSet(MeshViewSet):
    """`POST enqueue`, `POST enqueue/batch`."""

    verbs = {"create": (roles.ENQUEUE,), "batch": (roles.ENQUEUE,)}
    hot = frozenset(verbs)

    @extend_schema(
        operation_id="enqueue",
        summary="Send a task",
        tags=["tasks"],
        parameters=[serializers.IDEMPOTENCY_KEY],
        request=serializers.Enqueue,
        responses={201: serializers.Enqueued, 200: serializers.Enqueued},
        examples=examples.ENQUEUE,
    )
    def create(self, request: Any) -> Response:
        """Accept a task: 201, or 200 where the same was accepted before.

        The same is the same `id`, or the same `Idempotency-Key` of this token in this
        topic, with the same task; with another task it is a conflict. Nothing is
        written where the answer is no success, but for `outcome: unknown` (503): then
        send it again with the `id` in the problem. A success is as durable as its
        `durability` says: the one asked for, else the mesh's own.
        """
        sent = self._checked(self.body(), self._key())
        outcome = tasks.accept(sent.topic, [sent.wanted], sent.durability)[0]
        if outcome.error is not None:
            raise _refused(outcome)
        row = _row(sent.topic, outcome)
        status = 201 if outcome.new else 200
        return Response(row, status, headers=_location(sent.topic, outcome.id))

    @extend_schema(
        operation_id="enqueue_batch",
        summary="Send up to 1,000 tasks",
        tags=["tasks"],
        parameters=[serializers.IDEMPOTENCY_KEY],
        request=serializers.Batch,
        responses={200: serializers.BatchOutcome},
        examples=examples.BATCH,
    )
    def batch(self, request: Any) -> Response:
        """Accept each task for itself: `status` and `id`, or `error`, in their order.

        The statuses are those of sending one task. An `Idempotency-Key` stands for
        each task together with its place, unless the task has an `id`.
        """
        found: dict[int, dict[str, Any]] = {}
        by_level: dict[str | None, list[tuple[int, parsing.Enqueue]]] = {}
        key = parsing.batch_key(self._key())
        for index, value in enumerate(parsing.batch(self.body())):
            own = isinstance(value, dict) and "id" in value
            try:
                place = None if key is None or own else f"{key}/{index}"
                sent = self._checked(value, place)
            except (Problem, errors.BusError) as exc:
                found[index] = _failure(exc)
            else:
                by_level.setdefault(sent.durability, []).append((index, sent))
        for level, placed in by_level.items():
            rows = _accepted([sent for _, sent in placed], level)
            found |= zip([index for index, _ in placed], rows, strict=True)
        results = [{"index": index, **found[index]} for index in sorted(found)]
        return Response({"results": results})

    def _checked(self, value: Any, key: str | None) -> parsing.Enqueue:
        """A task, read and allowed."""
        sent = parsing.enqueue(value, key, self.who.key)
        permissions.check_topic(self.who, sent.topic)
        levels.granted(sent.durability)
        return sent

    def _key(self) -> str | None:
        key: str | None = self.request.headers.get("Idempotency-Key")
        return key


def _row(topic: str, outcome: Accepted) -> dict[str, Any]:
    """What a success means: which task, where, how it stands, how safe it is."""
    return {
        "id": outcome.id,
        "topic": topic,
        "state": outcome.state,
        "durability": outcome.durability or tasks.durability(),
    }


def _accepted(sent: list[parsing.Enqueue], level: str | None) -> list[dict[str, Any]]:
    """Send tasks that want the same durability; a result of the batch for each."""
    try:
        wanted = [(each.topic, each.wanted) for each in sent]
        outcomes = tasks.accept_each(wanted, level)
    except errors.BusError as exc:  # of the level, and so of each
        return [_failure(exc) for _ in sent]
    rows = []
    for each, outcome in zip(sent, outcomes, strict=True):
        if outcome.error is None:
            status = 201 if outcome.new else 200
            rows.append({"status": status, **_row(each.topic, outcome)})
        else:
            rows.append(_failure(_refused(outcome)))
    return rows


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


def _location(topic: str, task_id: str) -> dict[str, str]:
    return location(f"tasks/{task_id}?topic={topic}")
