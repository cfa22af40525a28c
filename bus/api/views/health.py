"""Whether the mesh works: for people, and for whoever restarts its processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import errors, health, roles, topics

from .. import serializers
from .base import MeshViewSet

# Open to all, so a look must not cost Redis more than this.
_KEEP_S: Final = 2.0
_READY_KEEP_S: Final = 1.0
T = TypeVar("T")
_WORST: Final = (health.OK, health.WARN, health.BAD)


class _Kept(Generic[T]):
    """What a look found, for so many seconds; of any number who ask at once one looks.

    Counted from its end: a server that hangs holds up each look, and would hold up one
    after the other of those who wait here.
    """

    def __init__(self, look: Callable[[], T], keep_s: float) -> None:
        self._look, self._keep_s = look, keep_s
        self._lock = threading.Lock()
        self._found: tuple[T, float] | None = None

    def now(self) -> T:
        """What was found, if that was just now."""
        with self._lock:
            if self._found is None or time.monotonic() >= self._found[1]:
                found = self._look()
                self._found = found, time.monotonic() + self._keep_s
            return self._found[0]

    def forget(self) -> None:
        """Look again at the next call."""
        self._found = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found, and the ledger of each topic."""

    checks: list[health.Check]
    ledgers: list[dict[str, Any]]


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
        look = _all.now()
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
        why = _ready.now()
        if why:
            return Response({"status": "down", "why": why}, 503)
        return Response({"status": "ok"})


def forget() -> None:
    """Look again at the next call, for tests that change the server."""
    _all.forget()
    _ready.forget()


def _look() -> _Look:
    """The checks and the ledgers; no ledgers beside a Redis that does not answer."""
    checks = health.checks()
    if _is_down(checks):
        return _Look(checks, [])
    try:
        facts = topics.all_stats()
    except errors.BusUnavailable as exc:
        return _Look(health.unreachable(exc), [])
    except errors.BusError:
        return _Look(checks, [])  # a damaged key, a missing right: the checks name it
    ledgers = [{"topic": row["topic"], **row["ledger"]} for row in facts]
    return _Look(checks, ledgers)


_all: Final = _Kept(_look, _KEEP_S)
_ready: Final = _Kept(lambda: health.refuses(), _READY_KEEP_S)


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
