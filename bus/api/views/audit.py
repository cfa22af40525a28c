"""The audit trail: who did what, as pages and as files."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import audit, roles

from .. import asked, exports, serializers
from .base import MeshViewSet


class AuditViewSet(MeshViewSet):
    """`GET audit`."""

    verbs = {"list": (roles.AUDIT,)}
    asks = {
        "list": (
            *("who", "verb", "topic", "target", "request_id", "since", "until"),
            *("count", "cursor", "format"),
        )
    }

    @extend_schema(
        operation_id="list_audit",
        summary="The audit trail",
        tags=["audit"],
        parameters=[
            serializers.AUDIT_WHO,
            serializers.AUDIT_VERB,
            serializers.AUDIT_TOPIC,
            serializers.AUDIT_TARGET,
            serializers.AUDIT_REQUEST,
            serializers.AUDIT_SINCE,
            serializers.AUDIT_UNTIL,
            serializers.COUNT,
            serializers.CURSOR,
            serializers.FORMAT,
        ],
        responses={
            (200, "application/json"): serializers.AuditList,
            **serializers.FILES,
        },
    )
    def list(self, request: Any) -> Response | HttpResponseBase:
        """Who did what, the newest first; as `jsonl` or `csv` all of it, as a file.

        `count` and `cursor` are of pages only. A token that is bound to topics is told
        what was done to these.
        """
        query = request.query_params
        sought = audit.Sought(
            **{name: query.get(name) or "" for name in _TEXTS},
            since=asked.moment_of(query, "since"),
            until=asked.moment_of(query, "until"),
        )
        kind = exports.format_of(query)
        if kind is not None:
            rows = map(audit.row, audit.each(self.who, sought))
            return exports.response(request, rows, kind, "audit", audit.COLUMNS)
        count, before = asked.count_of(query), asked.id_cursor_of(query)
        found = audit.find(self.who, sought, count + 1, before)
        more = found[count - 1].pk if len(found) > count else None
        rows = map(audit.row, found[:count])
        after = None if more is None else str(more)
        return Response({"entries": [*rows], "next": after})


_TEXTS = ("who", "verb", "topic", "target", "request_id")
