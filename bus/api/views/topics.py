"""Topics: how they stand; pause, limits; emptied, settled, deleted."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, Final

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import audit, errors, rates, refusals, roles, topics

from .. import asked, examples, lists, parsing, serializers, shapes
from .base import MeshViewSet, by_id

_MINUTES: Final = 15  # of which times are told; rates are those of the last 60 s


class TopicViewSet(MeshViewSet):
    """`GET topics`, `GET/PATCH/DELETE topics/{topic}`, `POST topics/{topic}/purge`,
    `/settle`."""

    verbs = {
        "list": (roles.READ,),
        "retrieve": (roles.READ,),
        "partial_update": (roles.PAUSE, roles.LIMIT),
        "purge": (roles.PURGE,),
        "settle": (roles.SETTLE,),
        "destroy": (roles.DELETE,),
    }
    asks = {"list": ("count", "cursor"), "destroy": ("force",)}

    @extend_schema(
        operation_id="list_topics",
        summary="Topics",
        tags=["topics"],
        parameters=[serializers.COUNT, serializers.CURSOR],
        responses=serializers.TopicList,
    )
    def list(self, request: Any) -> Response:
        """Every topic this token reaches, by name."""
        query = request.query_params
        known = [name for name in topics.list_topics() if self.who.may_topic(name)]
        found, after = lists.page(
            "topics",
            known,
            lambda name: [name],
            asked.count_of(query),
            query.get("cursor"),
        )
        # Only those of the page: a mesh may have a thousand.
        recent = rates.of_topics(found, _MINUTES)
        rows = [
            shapes.topic_row(row, recent[row["topic"]])
            for row in topics.stats_of(found)
        ]
        return Response({"topics": rows, "next": after})

    @extend_schema(
        operation_id="get_topic",
        summary="One topic",
        tags=["topics"],
        parameters=[serializers.TOPIC_IN_PATH],
        responses=serializers.Topic,
    )
    def retrieve(self, request: Any, topic: str) -> Response:
        """Counts, limits and the ledger of one topic, read in one moment."""
        return self._row(self._known(topic))

    @extend_schema(
        operation_id="change_topic",
        summary="Pause a topic, resume it, set its limits",
        tags=["topics"],
        parameters=[serializers.TOPIC_IN_PATH],
        request=serializers.TopicChange,
        responses=serializers.Topic,
        examples=examples.TOPIC_CHANGE,
    )
    def partial_update(self, request: Any, topic: str) -> Response:
        """Change what the body names; the topic as it is then.

        Once `paused`, no task starts later than a second after the answer. Limits take
        an admin; one out of its range changes nothing.
        """
        paused, limits = parsing.topic_change(self.body())
        if limits:
            self.needs(roles.LIMIT)
        note = partial(self.record, topic=self._known(topic), target=topic)
        with audit.of_changes(note):
            told = topics.changed(topic, paused=paused, limits=limits)
        with refusals.written() if told else contextlib.nullcontext():
            for verb, before, after in told:
                note(verb, before=before, after=after)
            return self._row(topic)

    @extend_schema(
        operation_id="purge_topic",
        summary="Empty a topic",
        tags=["topics"],
        parameters=[serializers.TOPIC_IN_PATH],
        request=serializers.Purge,
        responses={200: serializers.Purged},
        examples=examples.PURGE,
    )
    def purge(self, request: Any, topic: str) -> Response:
        """End what the topic holds now: `cancelled` or `discarded`, nothing vanishes.

        `waiting` cancels what waits or is delayed, `dead` discards its letters (`undo`
        brings the newest 10,000 of an hour back), `all` does both and asks agents to
        stop what they run. What comes meanwhile stays. After an error send it again.
        """
        what = parsing.purge(self.body(needed=False))
        write = partial(self.record, roles.PURGE, topic, topic, what=what)
        with audit.of_steps(write):
            counts = bus.purge_topic(self._known(topic), what)
        write(**counts)
        return Response({"topic": topic, **counts})

    @extend_schema(
        operation_id="settle_topic",
        summary="Settle a ledger that is off",
        tags=["topics"],
        parameters=[serializers.TOPIC_IN_PATH],
        request=None,
        responses={200: serializers.Settled},
    )
    def settle(self, request: Any, topic: str) -> Response:
        """Enter what the ledger is off by, so that it balances from here on.

        The whole topic is audited before, for what can still be found is not settled.
        409 while a task is in two states: that has to be decided first.
        """
        parsing.nothing(self.body(needed=False))
        settled = bus.settle_ledger(self._known(topic))
        self.record(roles.SETTLE, topic, topic, settled=settled)
        return Response({"topic": topic, "settled": settled})

    @extend_schema(
        operation_id="delete_topic",
        summary="Delete a topic",
        tags=["topics"],
        parameters=[serializers.TOPIC_IN_PATH, serializers.FORCE],
        responses={200: serializers.Deleted},
    )
    def destroy(self, request: Any, topic: str) -> Response:
        """Delete the topic with all it holds; 409 while agents run tasks of it.

        What waits ends `cancelled` before, letters `discarded`. Whatever is sent to its
        name from then on begins a new topic.
        """
        parsing.nothing(self.body(needed=False))
        force = asked.flag_of(request.query_params, "force")
        write = partial(self.record, roles.DELETE, topic, topic, force=force)
        with audit.of_steps(write):
            counts = bus.delete_topic(self._known(topic), force=force)
        write(**counts)
        return Response({"topic": topic, **counts})

    def _known(self, topic: str) -> str:
        """The topic, if it is there."""
        self.checked(topic)
        return by_id(topics.check_known, errors.TopicNotFound, topic)

    def _row(self, topic: str) -> Response:
        recent = rates.of_topics([topic], _MINUTES)[topic]
        return Response(shapes.topic_row(bus.stats(topic), recent))
