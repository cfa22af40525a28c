"""Tasks: lists, one task in full, cancel."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import errors, messages, roles

from .. import asked, examples, parsing, serializers, shapes
from ..permissions import check_topic
from .base import MeshViewSet, by_id


class TaskViewSet(MeshViewSet):
    """`GET tasks`, `GET tasks/{id}`, `POST tasks/{id}/cancel`."""

    verbs = {
        "list": (roles.READ,),
        "retrieve": (roles.READ,),
        "cancel": (roles.CANCEL,),
    }
    asks = {
        "list": ("topic", "state", "count", "cursor"),
        "retrieve": ("topic", "wait"),
        "cancel": ("topic",),
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
        state, cursor = (asked.text_of(query, name) for name in ("state", "cursor"))
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
        return Response(shapes.task_page(self._task(task_id)))

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
        task = self._task(task_id)
        state = bus.cancel(task.id, task.topic)
        self.record(roles.CANCEL, task.topic, task.id, state=state)
        status = 200 if state == messages.CANCELLED else 202
        row = {"id": task.id, "topic": task.topic, "state": state}
        return Response(row, status)

    def _task(self, task_id: str) -> messages.Task:
        """The task a path names, as far as the token reaches."""
        topic = self.checked(asked.text_of(self.request.query_params, "topic"))
        task = by_id(bus.get_task, errors.TaskNotFound, task_id, topic)
        return self.reached(task, errors.TaskNotFound)
