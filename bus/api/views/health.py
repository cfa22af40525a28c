"""Whether the mesh works: for people, and for whoever restarts its processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import errors, health, roles, topics

from .. import serializers
from .base import MeshViewSet

_KEEP_S: Final = 2.0  # open to all, so a look must not cost Redis more than this
_WORST: Final = (health.OK, health.WARN, health.BAD)


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found, and the ledger of each topic; to be believed for a while."""

    until: float
    checks: list[health.Check]
    ledgers: list[dict[str, Any]]


_last = _Look(0.0, [], [])


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

        Everybody hears the name of each check, and in one word why it is not `ok`. What
        it says, which topics it is about, and their ledgers, is told to who may read.
        """
        look = _look()
        down = _is_down(look.checks)
        good = all(check.status == health.OK for check in look.checks)
        status = "down" if down else "ok" if good else "degraded"
        body = {"status": status, **self._told(look)}
        return Response(body, 503 if down else 200)

    def _told(self, look: _Look) -> dict[str, Any]:
        who = self.principal
        if who is None or not who.may(roles.READ):
            return {"checks": [*_in_words(look.checks)]}
        checks = [
            {**_row(check), "says": check.says, "hint": check.hint}
            for check in look.checks
            if not check.topic or who.may_topic(check.topic)
        ]
        ledgers = [row for row in look.ledgers if who.may_topic(row["topic"])]
        return {"checks": checks, "ledgers": ledgers}

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


def forget() -> None:
    """Look again at the next call, for tests that change the server."""
    global _last
    _last = _Look(0.0, [], [])


def _look() -> _Look:
    """The findings of the last two seconds; of two who ask at once both may look."""
    global _last
    look = _last
    if time.monotonic() >= look.until:
        checks, ledgers = _seen()
        look = _last = _Look(time.monotonic() + _KEEP_S, checks, ledgers)
    return look


def _seen() -> tuple[list[health.Check], list[dict[str, Any]]]:
    """The checks and the ledgers; no ledgers beside a Redis that does not answer."""
    checks = health.checks()
    if _is_down(checks):
        return checks, []
    try:
        facts = topics.all_stats()
    except errors.BusUnavailable as exc:
        return health.unreachable(exc), []
    return checks, [{"topic": row["topic"], **row["ledger"]} for row in facts]


def _is_down(checks: Iterable[health.Check]) -> bool:
    return any(each.name == "redis" and each.status == health.BAD for each in checks)


def _row(check: health.Check) -> dict[str, Any]:
    row = {"name": check.name, "status": check.status}
    if check.status != health.OK:
        row["why"] = check.word or "look"
    return row


def _in_words(checks: Iterable[health.Check]) -> Iterator[dict[str, Any]]:
    """The checks without names of topics: all that are about one count as `topics`."""
    about_topics = []
    for check in checks:
        if check.topic:
            about_topics.append(check)
        else:
            yield _row(check)
    if about_topics:
        worst = max(about_topics, key=lambda check: _WORST.index(check.status))
        yield {**_row(worst), "name": "topics"}
