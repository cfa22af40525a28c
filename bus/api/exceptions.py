"""Errors on their way out: whatever a view raises becomes a problem document, or a 500.

Statuses live in `problems.KINDS`; here stands which code an exception has.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from rest_framework import exceptions as drf
from rest_framework.permissions import SAFE_METHODS
from rest_framework.response import Response

from bus import databases, errors, refusals

from . import auth
from .problems import KINDS, MEDIA_TYPE, Problem, later

log = logging.getLogger(__name__)

_REDIS_BACK_S: Final = 1.0
_DATABASE_BACK_S: Final = 5.0

_AWAY: Final = "The mesh's Redis does not answer or refuses work for now."
_SAID: Final = {
    "overloaded": "Too many calls wait for Redis in this process, please try again.",
    "memory_full": "The mesh's Redis has no memory left for new tasks.",
    "disk_failing": "The mesh's Redis cannot write to its disk.",
    "replicas_missing": "The mesh's Redis has too few replicas to take anything.",
    "read_only": "The mesh's Redis is a replica at the moment and takes nothing.",
    "level_not_reached": (
        "Written, but not as durable in time as was wanted: send it again."
    ),
}

_NOBODY: Final = "Sign in, or send a token of the mesh: Authorization: Bearer …"
_TOLD: Final = ("state", "topics")  # what a client may want to act on


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler; None for a bug, which is then logged and answered 500.

    The 500 itself is written by `middleware.py`, which also meets bugs elsewhere.
    """
    problem = problem_of(exc)
    if problem is None:
        return None
    if isinstance(exc, drf.AuthenticationFailed):
        problem = auth.counted(problem, context["request"])
    document = problem.document()
    if context["request"].method in SAFE_METHODS:
        document.pop("outcome", None)  # of what was not written: a read writes nothing
    return Response(
        document,
        status=problem.status,
        headers=problem.headers,
        content_type=MEDIA_TYPE,
    )


def problem_of(exc: Exception) -> Problem | None:
    """The problem an exception stands for; None if it is a bug of ours."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, errors.BusError):
        return _of_bus(exc)
    if isinstance(exc, drf.APIException):
        return _of_drf(exc)
    if isinstance(exc, databases.AWAY):
        return database_away(exc, "unknown")
    return None


def database_away(exc: Exception, outcome: str) -> Problem:
    """The problem of a database that does not answer; why stands in the log.

    `outcome` is `not_written` as long as nobody knew who asked; later it is `unknown`.
    What is missing on the audit trail only is no error: the log has it (`bus.audit`).
    """
    log.error("the database cannot be used: %s", exc)
    said = "The mesh's database, where its accounts are, does not answer."
    return later("database_unavailable", said, _DATABASE_BACK_S, outcome=outcome)


def _of_bus(exc: errors.BusError) -> Problem | None:
    if isinstance(exc, errors.BusUnavailable):
        # What Redis says names hosts and ports: that is for the log and `doctor`.
        said = _SAID.get(exc.code, _AWAY)
        ids = exc.task_ids if isinstance(exc, errors.OutcomeUnknown) else []
        # Which task it may have become, for whoever sends it again or looks for it.
        task = {"id": ids[0]} if len(ids) == 1 else {}
        outcome = _outcome(exc, exc.outcome)
        return later(exc.code, said, _REDIS_BACK_S, outcome=outcome, **task)
    if isinstance(exc, refusals.DamagedKey):
        outcome = _outcome(exc, errors.BusUnavailable.outcome)
        return later(exc.code, str(exc), exc.retry_after_s, outcome=outcome)
    wait_s = getattr(exc, "retry_after_s", None)
    if wait_s is not None:
        return later(exc.code, str(exc), wait_s)
    told = {name: exc.facts[name] for name in _TOLD if name in exc.facts}
    return Problem(exc.code, str(exc), **told) if exc.code in KINDS else None


def _outcome(exc: errors.BusError, alone: str) -> str:
    """What is done in steps may have come a part of the way; else it is `alone`."""
    partly = any(exc.facts.get("done", {}).values())
    return errors.OutcomeUnknown.outcome if partly else alone


def _of_drf(exc: drf.APIException) -> Problem | None:
    if isinstance(exc, drf.Throttled):
        return later("rate_limited", "Too many calls of this kind.", exc.wait or 1.0)
    headers = {}
    if getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = str(exc.auth_header)
    for kind, code in _DRF_CODES.items():
        if isinstance(exc, kind):
            # DRF's own sentence names no scheme: Basic and Token are none of ours.
            told = _NOBODY if code == "not_authenticated" else str(exc.detail)
            return Problem(code, told, headers)
    return None


# The first that fits.
_DRF_CODES: Final[dict[type[drf.APIException], str]] = {
    drf.NotAuthenticated: "not_authenticated",
    drf.AuthenticationFailed: "invalid_token",
    auth.CsrfFailed: "csrf_failed",
    drf.PermissionDenied: "permission_denied",
    drf.NotFound: "not_found",
    drf.MethodNotAllowed: "method_not_allowed",
    drf.UnsupportedMediaType: "unsupported_media_type",
    drf.ParseError: "unreadable",
    drf.ValidationError: "invalid",
}
