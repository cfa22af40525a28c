"""Problem documents (RFC 9457): the one shape of every error of the REST API.

`KINDS` is the table from stable codes to statuses. The codes of bus errors stand in it
under their own names; a bus error that is missing here is a bug, and answered as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .schema import is_gateway

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of error: its status, its title, and whether to send it again."""

    status: int
    title: str
    retry: str


_NO: Final = "no"
_SAME: Final = "yes, with the same id or key"

KINDS: Final[dict[str, Kind]] = {
    "unreadable": Kind(400, "The request cannot be read", _NO),
    "bad_request": Kind(400, "The request is not allowed as it is", _NO),
    "not_authenticated": Kind(401, "Credentials are missing", "with a token"),
    "invalid_token": Kind(401, "The token is not valid", "with another token"),
    "permission_denied": Kind(403, "The role does not allow this", _NO),
    "topic_not_allowed": Kind(403, "The token is bound to other topics", _NO),
    "csrf_failed": Kind(403, "The CSRF check failed", "after loading the page anew"),
    "not_found": Kind(404, "There is no such thing", _NO),
    "task_not_found": Kind(404, "There is no such task", _NO),
    "dead_letter_not_found": Kind(404, "There is no such dead letter", _NO),
    "replay_not_found": Kind(404, "There is no such bulk replay", _NO),
    "agent_not_found": Kind(404, "There is no such agent", "after registering it"),
    "topic_not_found": Kind(404, "There is no such topic", _NO),
    "method_not_allowed": Kind(405, "The method is not allowed here", _NO),
    "request_timeout": Kind(408, "The request did not arrive in time", _SAME),
    "conflict": Kind(409, "Its state does not allow this", _NO),
    "task_conflict": Kind(409, "The id or key belongs to another task", _NO),
    "not_dead": Kind(409, "It is not a dead letter any more", _NO),
    "not_cancellable": Kind(409, "It has ended", _NO),
    "several_topics": Kind(409, "Several topics have this id", "with a topic"),
    "not_runnable": Kind(409, "It waits or runs already", _NO),
    "topic_busy": Kind(409, "Agents run tasks of it", "once they have ended"),
    "body_too_large": Kind(413, "The body is too large", _NO),
    "payload_too_large": Kind(413, "The payload is too large", _NO),
    "uri_too_long": Kind(414, "The URL is too long", _NO),
    "unsupported_media_type": Kind(415, "The body is not plain UTF-8 JSON", _NO),
    "invalid": Kind(422, "Fields are missing, unknown or wrong", _NO),
    "invalid_name": Kind(422, "A name is not allowed", _NO),
    "invalid_option": Kind(422, "An option is outside its range", _NO),
    "invalid_payload": Kind(422, "The payload is outside the limits", _NO),
    "too_many_topics": Kind(422, "The mesh has as many topics as it may", _NO),
    "topic_full": Kind(429, "The topic is full", "yes, after Retry-After"),
    "rate_limited": Kind(429, "Too many calls", "yes, after Retry-After"),
    "too_many_streams": Kind(429, "Too many streams", "yes, after Retry-After"),
    "headers_too_large": Kind(431, "The headers are too large", _NO),
    "internal_error": Kind(500, "The mesh failed", "later; tell the operator the id"),
    "upstream_refused": Kind(400, "The model server does not accept this", _NO),
    "model_not_found": Kind(404, "The model server has no such model", _NO),
    "upstream_error": Kind(502, "The model server failed", "yes, later"),
    "upstream_busy": Kind(503, "The model server is busy", "yes, after Retry-After"),
    "upstream_timeout": Kind(504, "The model server took too long", "yes, later"),
    "overloaded": Kind(503, "The mesh has too much to do", "yes, after Retry-After"),
    "bus_unavailable": Kind(
        503, "Redis does not answer, or refuses for now", "yes, after Retry-After"
    ),
    "memory_full": Kind(503, "Redis' memory is full", "yes, after Retry-After"),
    "disk_failing": Kind(
        503, "Redis cannot write to its disk", "yes, after Retry-After"
    ),
    "replicas_missing": Kind(
        503, "Redis has too few replicas", "yes, after Retry-After"
    ),
    "read_only": Kind(503, "Redis is a replica", "yes, after Retry-After"),
    "damaged_key": Kind(503, "A key was changed by hand", "yes, after Retry-After"),
    "database_unavailable": Kind(
        503, "The database does not answer", "yes, after Retry-After"
    ),
    "outcome_unknown": Kind(503, "The answer of Redis was lost", _SAME),
    "level_not_reached": Kind(503, "Written, not yet as durable as wanted", _SAME),
}


def problem(
    status: int, code: str, title: str, detail: str, **extra: Any
) -> dict[str, Any]:
    """The members of a problem document; `extra` may not replace the standard ones."""
    kind = f"urn:mesh:problem:{code}"
    head: dict[str, Any] = {"type": kind, "title": title, "status": status}
    head |= {"code": code, "detail": detail}
    return head | {name: value for name, value in extra.items() if name not in head}


class Problem(Exception):
    """An error on its way to the client: a code of `KINDS`, a sentence, headers."""

    def __init__(
        self,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.extra = code, detail, extra
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.code].status

    def document(self) -> dict[str, Any]:
        """The body."""
        kind = KINDS[self.code]
        return problem(kind.status, self.code, kind.title, self.detail, **self.extra)


def told(path: str, problem: Problem) -> tuple[bytes, str]:
    """Body and content type of a problem, in the shape that calls of this path have."""
    if is_gateway(path):
        return orjson.dumps(as_ollama(problem)), "application/json"
    return orjson.dumps(problem.document()), MEDIA_TYPE


def as_ollama(problem: Problem) -> dict[str, Any]:
    """A problem as Ollama's clients read errors."""
    return {"error": problem.detail, **problem.extra}


def later(code: str, detail: str, wait_s: float, **extra: Any) -> Problem:
    """A problem that may pass: `Retry-After` in seconds, and in ms in the body."""
    headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    wait_ms = max(1, math.ceil(wait_s * 1000))
    return Problem(code, detail, headers, retry_after_ms=wait_ms, **extra)
