"""Tasks on their way in, one or up to a thousand."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import errors, levels, roles, tasks

from .. import calls, examples, serializers
from .base import MeshViewSet


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
        sent = calls.enqueue(self.who, self.body(), self.key())
        level = _level(sent.durability)
        outcomes = tasks.accept(sent.topic, [sent.wanted], sent.durability)
        return self.answered(calls.enqueued(sent.topic, outcomes[0], level))

    @extend_schema(
        operation_id="enqueue_batch",
        summary="Send up to 1,000 tasks",
        tags=["tasks"],
        parameters=[serializers.BATCH_KEY],
        request=serializers.Batch,
        responses={200: serializers.BatchOutcome},
        examples=examples.BATCH,
    )
    def batch(self, request: Any) -> Response:
        """Accept each task for itself: `status` and `id`, or `error`, in their order.

        The statuses are those of sending one task. An `Idempotency-Key` stands for
        each task together with its place, unless the task has an `id`.
        """
        batch = calls.Batch(self.who, self.body(), self.key())
        for wanted, sent in batch.levels():
            try:
                level = _level(wanted)
                outcomes = tasks.accept_each(sent, wanted)
            except errors.BusError as exc:
                batch.refuse(wanted, exc)
            else:
                batch.settle(wanted, outcomes, level)
        return self.answered(batch.answer())


def _level(wanted: str | None) -> str:
    """What a success will mean, known before anything is sent."""
    return str(levels.granted(wanted)) or tasks.durability()
