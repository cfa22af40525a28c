"""Topics: how they stand."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import rates, roles, topics

from .. import asked, lists, serializers, shapes
from ..problems import Problem
from .base import MeshViewSet

_MINUTES: Final = 15  # of which times are told; rates are those of the last 60 s


class TopicViewSet(MeshViewSet):
    """`GET topics`, `GET topics/{topic}`."""

    verbs = {"list": (roles.READ,), "retrieve": (roles.READ,)}
    asks = {"list": ("count", "cursor")}

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
        known = [row for row in topics.all_stats() if self.who.may_topic(row["topic"])]
        found, after = lists.page(
            known,
            lambda row: [row["topic"]],
            asked.count_of(query),
            asked.text_of(query, "cursor"),
        )
        recent = rates.of_topics([row["topic"] for row in found], _MINUTES)
        rows = [shapes.topic_row(row, recent[row["topic"]]) for row in found]
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
        self.checked(topic)
        if topic not in bus.list_topics():
            said = f"no topic {topic!r:.80}: nothing was ever sent to it"
            raise Problem("topic_not_found", said)
        recent = rates.of_topics([topic], _MINUTES)[topic]
        return Response(shapes.topic_row(bus.stats(topic), recent))
