"""Tasks: lists, one task in full; cancel it, run it now."""

from __future__ import annotations

import functools
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import again, lookup, messages, refusals, roles

from .. import asked, examples, parsing, serializers, shapes
from ..permissions import check_topic
from .base import MeshViewSet, location


class TaskViewSet(MeshViewSet):
    """`GET tasks`, `GET tasks/{id}`, `POST tasks/{id}/cancel`, `tasks/{id}/run`."""

    verbs = {
        "list": (roles.READ,),
        "retrieve": (roles.READ,),
        "cancel": (roles.CANCEL,),
        "run": (roles.RUN,),
    }
    asks = {
        "list": ("topic", "state", "count", "cursor"),
        "retrieve": ("topic", "wait"),
        "cancel": ("topic",),
        "run": ("topic",),
    }

    @extend_schema(
        operation_id="list_tasks",
        summary="Tasks of a topic by state",
        tags=["tasks"],
        parameters=[
            serializers.TOPIC,
            serializers.STATE,
            serializers.COUNT,
            serializers.CURSOR,
        ],
        responses=serializers.TaskList,
    )
    def list(self, request: Any) -> Response:
        """Live tasks in the order in which they run, then dead and ended ones.

        Pages may be short; the list ends where `next` is null.
        """
        query = request.query_params
        topic = check_topic(self.who, asked.topic_of(query))
        state, cursor = (query.get(name) for name in ("state", "cursor"))
        found, after = bus.list_tasks(topic, state, asked.count_of(query), cursor)
        return Response({"tasks": [*map(shapes.task_row, found)], "next": after})

    @extend_schema(
        operation_id="get_task",
        summary="One task, or its end",
        tags=["tasks"],
        parameters=[
            serializers.TASK_ID,
            serializers.TOPIC_OPTIONAL,
            serializers.WAIT,
        ],
        responses=serializers.TaskPage,
        examples=examples.TASK,
    )
    def retrieve(self, request: Any, task_id: str) -> Response:
        """How a task stands, what happened to it, why it is not running.

        With `wait` the answer comes once the task is done, dead, cancelled or
        discarded, else after so many seconds, and is 200 either way.
        """
        asked.wait_of(request.query_params)  # the wait is in front, in waiting.py
        return Response(shapes.task_page(self.found(task_id)))

    @extend_schema(
        operation_id="cancel_task",
        summary="Cancel a task",
        tags=["tasks"],
        parameters=[serializers.TASK_ID, serializers.TOPIC_OPTIONAL],
        request=None,
        responses={200: serializers.Cancelled, 202: serializers.Cancelled},
    )
    def cancel(self, request: Any, task_id: str) -> Response:
        """Cancel it: 200, or 202 while its agent is told to stop.

        A completion that arrives before the agent stops still counts.
        """
        parsing.nothing(self.body(needed=False))
        find = functools.partial(lookup.one_topic, states=lookup.TO_CANCEL)
        task = self.found(task_id, find=find)
        state = bus.cancel(task.id, task.topic)
        self.record(roles.CANCEL, task.topic, task.id, state=state)
        status = 200 if state == messages.CANCELLED else 202
        row = {"id": task.id, "topic": task.topic, "state": state}
        return Response(row, status)

    @extend_schema(
        operation_id="run_task",
        summary="Run a task now, or once more",
        tags=["tasks"],
        parameters=[
            serializers.TASK_ID,
            serializers.TOPIC_OPTIONAL,
            serializers.REQUEST_KEY,
        ],
        request=None,
        responses={200: serializers.Ran, 201: serializers.Ran},
        examples=examples.RUN,
    )
    def run(self, request: Any, task_id: str) -> Response:
        """Start a delayed task, replay a dead one, send an ended one again.

        200 with the same id, or 201 with that of a new task, whose `again_of` names the
        old one. 409 `not_runnable` while it waits or runs. A repeat with the same
        `Idempotency-Key` is the same run, 200 with the state its task is in by then.
        """
        parsing.nothing(self.body(needed=False))
        key, who = self.request_key(), self.who
        find = functools.partial(lookup.one_topic, states=lookup.TO_RUN)
        task = self.found(task_id, find=find)
        ran, did = again.ran(task.id, task.topic, who.name, who.key, key)
        once_more = ran != task.id
        detail = {"state": task.state, **({"again": ran} if once_more else {})}
        # Also a repeat: the first request may have ended before it was written down.
        told = detail if did else {**detail, "repeat": True}
        self.record(roles.RUN, task.topic, task.id, **told)
        state = messages.WAITING
        if not did:
            with refusals.written():  # by the request before
                state = bus.get_task(ran, task.topic).state
        row: dict[str, Any] = {"id": ran, "topic": task.topic, "state": state}
        row["again_of"] = task.id if once_more else None
        if not (did and once_more):
            return Response(row)
        return Response(row, 201, headers=location(f"tasks/{ran}?topic={task.topic}"))
