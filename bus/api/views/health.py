"""Whether the mesh works: for people, and for whoever restarts its processes."""

from __future__ import annotations

import time
from typing import Any, Final

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import health, roles

from .. import serializers
from .base import MeshViewSet

_KEEP_S: Final = 2.0  # open to all, so a look must not cost Redis more than this

_last: tuple[float, list[health.Check]] = (0.0, [])


class HealthViewSet(MeshViewSet):
    """`GET health`, `health/live`, `health/ready`: open, never limited."""

    verbs = {"list": (), "live": (), "ready": ()}
    throttle_classes: tuple[Any, ...] = ()  # who asks may be the one who restarts Redis

    @extend_schema(
        operation_id="health",
        summary="How the mesh is",
        tags=["health"],
        responses={200: serializers.Health, 503: serializers.Health},
    )
    def list(self, request: Any) -> Response:
        """All checks: 200 also when degraded, 503 when Redis does not answer.

        What each check says is told to who may read.
        """
        found = _checks()
        who = self.principal
        told = who is not None and who.may(roles.READ)
        rows = [
            {"name": check.name, "status": check.status}
            | ({"says": check.says, "hint": check.hint} if told else {})
            for check in found
            if told or not check.name.startswith("topic ")
        ]
        down = any(c.name == "redis" and c.status == health.BAD for c in found)
        good = all(check.status == health.OK for check in found)
        status = "down" if down else "ok" if good else "degraded"
        return Response({"status": status, "checks": rows}, 503 if down else 200)

    @extend_schema(
        operation_id="health_live",
        summary="Whether this process answers",
        tags=["health"],
        responses=serializers.Alive,
    )
    def live(self, request: Any) -> Response:
        """200 as long as this process answers at all."""
        return Response({"status": "ok"})

    @extend_schema(
        operation_id="health_ready",
        summary="Whether this process can work",
        tags=["health"],
        responses={200: serializers.Alive, 503: serializers.Alive},
    )
    def ready(self, request: Any) -> Response:
        """200 if Redis answers and is fit, else 503 and `why`: send no calls here."""
        why = health.refuses()
        if why:
            return Response({"status": "down", "why": why}, 503)
        return Response({"status": "ok"})


def _checks() -> list[health.Check]:
    """The findings of the last two seconds; of two who ask at once both may look."""
    global _last
    until, found = _last
    if time.monotonic() >= until:
        found = health.checks()
        _last = (time.monotonic() + _KEEP_S, found)
    return found
