"""`GET metrics`: for Prometheus, open on this machine, with a token elsewhere."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions

from bus import metrics, roles

from .base import MeshViewSet

# A proxy on this machine speaks for somebody elsewhere.
_FORWARDED: Final = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP")


class MetricsViewSet(MeshViewSet):
    """Counts, ages, ledgers and agents as text."""

    verbs = {"list": ()}

    @extend_schema(
        operation_id="metrics",
        summary="Metrics for Prometheus",
        tags=["health"],
        responses={(200, "text/plain"): OpenApiTypes.STR},
    )
    def list(self, request: Any) -> HttpResponse:
        """Open to callers on this machine; elsewhere a token that may read is needed.

        A token bound to topics is told of these only. On this machine a token of any
        role is enough, since none is needed.
        """
        who = self.principal
        local = _is_local(request.META)
        if who is None:
            if not local:
                raise exceptions.NotAuthenticated()
            return _answer(metrics.text())
        if not (local or who.may(roles.READ)):
            raise exceptions.PermissionDenied(f"role {who.role!r} may not read here")
        return _answer(metrics.text(who.may_topic))


def _answer(text: str) -> HttpResponse:
    return HttpResponse(
        text, content_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"}
    )


def _is_local(meta: dict[str, Any]) -> bool:
    """Whether the caller is on this machine, and nobody speaks through it."""
    if any(meta.get(name) for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(meta.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
