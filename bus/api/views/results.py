"""Results: pages of them, and a stream of those that come."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import results, roles
from bus.live import window

from .. import asked, examples, exports, serializers, shapes, stream
from ..permissions import check_topic
from .base import MeshViewSet


class ResultViewSet(MeshViewSet):
    """`GET results`, `GET results/stream`."""

    verbs = {"list": (roles.READ,), "stream": (roles.READ,)}
    asks = {
        "list": ("topic", "count", "after", "before", "format"),
        "stream": ("topic", "after"),
    }

    @extend_schema(
        operation_id="list_results",
        summary="Results of a topic",
        tags=["results"],
        parameters=[
            serializers.TOPIC,
            serializers.COUNT,
            serializers.AFTER,
            serializers.BEFORE,
            serializers.FORMAT,
        ],
        responses={
            (200, "application/json"): serializers.ResultList,
            **serializers.FILES,
        },
        examples=examples.RESULTS,
    )
    def list(self, request: Any) -> Response | HttpResponseBase:
        """The newest first; with `after` those newer than it, the oldest first.

        `next` is the id to continue from: as `before`, or as `after` where that was
        given. Pages of large results are shorter. Rows of cancelled and discarded tasks
        are told by their `state`. As `jsonl` or `csv` all there are now, as a file;
        `count` is of pages only.
        """
        query = request.query_params
        topic = check_topic(self.who, asked.topic_of(query))
        count = asked.count_of(query)
        after, before = (query.get(name) for name in ("after", "before"))
        kind = exports.format_of(query)
        if kind is not None:
            all_rows = results.each(topic, after, before)
            told = (shapes.result_row(topic, *each) for each in all_rows)
            columns = shapes.RESULT_COLUMNS
            return exports.response(request, told, kind, "results", columns)
        found, more = results.bounded(topic, count, after, before)
        rows = [shapes.result_row(topic, *each) for each in found]
        return Response({"results": rows, "next": found[-1][0] if more else None})

    @extend_schema(
        operation_id="stream_results",
        summary="Results as they come",
        tags=["results"],
        parameters=[
            serializers.TOPIC,
            serializers.AFTER_CURSOR,
            serializers.LAST_EVENT_ID,
        ],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
        examples=examples.STREAM,
    )
    def stream(self, request: Any) -> HttpResponse:
        """Server-sent events: `result`, `gap`, `live`, `bus`, `end`.

        A `result` is a row of `GET results`. It, `gap`, `live` have an id: with it as
        `Last-Event-ID`, or as `after`, the stream goes on behind it, and what Redis
        does not hold any more is a `gap` with how many were `missed`. Without either it
        begins now. `live` comes once: from here on nothing is old. `bus` says whether
        Redis answers (`up`), `end` why the stream ends (`code`, `detail`).
        """
        query = request.query_params
        topic = check_topic(self.who, asked.topic_of(query))
        bus.result_stream(topic)  # a name that can be one
        # A browser that comes back sends both; what it has seen is in the header.
        seen = request.headers.get("Last-Event-ID") or None
        after = seen or query.get("after")
        if after is not None:
            window.parse_cursor(after)
        wishes = getattr(request._request, "scope", {}).get(stream.WISHES)
        if wishes is not None:
            wishes.append(stream.Wish(topic, after, self.who))
        # no-transform: what compresses on the way would keep events until it is full.
        self.headers["Cache-Control"] = "no-cache, no-store, no-transform"
        self.headers["X-Accel-Buffering"] = "no"
        return HttpResponse(stream.retry() + b"\n", content_type="text/event-stream")
