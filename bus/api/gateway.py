"""The calls below `ollama/`: what they mean, whichever door they come through.

`generate` is the mesh's own, `api/…` are those of Ollama itself, so that its clients
work with `…/ollama` as their host. Errors are `{"error": text}` as Ollama tells them;
authentication and statuses are those of the API.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from django.core.exceptions import (
    BadRequest,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http.multipartparser import MultiPartParserError
from django.http.request import RawPostDataException
from rest_framework import exceptions as drf

from bus import errors, ollama, ratelimit, roles
from bus.conf import conf
from bus.gateway import mirrored, prompts
from bus.gateway.seats import Seat

from . import jsontext, throttles
from .exceptions import problem_of
from .problems import Problem, as_ollama, later

log = logging.getLogger(__name__)

# What Django raises where a body that says it is a form is none, or was read as one.
_UNREADABLE: Final = (
    BadRequest,
    MultiPartParserError,
    RawPostDataException,
    SuspiciousOperation,
)
JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of somebody who was let in; `path` is what comes after `ollama/`."""

    who: roles.Principal
    method: str
    path: str
    body: Callable[[], bytes]
    content_encoding: str = ""
    cache_control: str = ""
    parameters: Collection[str] = ()  # of its address, where no call has any

    def value(self) -> Any:
        """The JSON of the body, under any content type, as Ollama itself takes it."""
        limit = conf.OLLAMA_BODY_MAX_BYTES
        return jsontext.document(self.body(), JSON, self.content_encoding, limit=limit)

    def wants_fresh(self) -> bool:
        """Whether the model is to be asked although an answer may be kept."""
        parts = self.cache_control.lower().split(",")
        return any(part.strip() in ("no-cache", "no-store") for part in parts)


class Relay:
    """The lines of a seat as they come; an error after the first becomes the last."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for line in self._seat:
                yield line + b"\n"
        except Exception as exc:
            # The status is long sent: this is how Ollama itself tells it.
            yield orjson.dumps({"error": problem(exc).detail}) + b"\n"
        finally:
            self.close()

    def close(self) -> None:
        """Called by the door at the end, whether or not it was ever iterated."""
        self._seat.close()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer on its way out; a relay is to be closed."""

    body: bytes | Relay
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


async def answer(asked: Asked) -> Told:
    """What the call says; Problem or an error that `refusal` knows."""
    path = asked.path.removesuffix("/")
    call = _CALLS.get(path)
    if call is None:
        there = ", ".join(sorted(each for each in _CALLS if each))
        raise Problem("not_found", f"no such path; there are {there}")
    if not asked.who.may(roles.GENERATE):
        role = asked.who.role or "nobody"
        raise drf.PermissionDenied(f"the role {role} does not include generating")
    methods, work = call
    if asked.method not in methods:
        allow = {"Allow": ", ".join(methods)}
        said = f"{asked.method} is not allowed here"
        raise Problem("method_not_allowed", said, allow)
    for name in asked.parameters:
        raise Problem("invalid", f"?{name[:80]} is unknown; this call has none")
    return await work(asked)


def refusal(exc: Exception) -> Told:
    """What a client hears of an exception."""
    told = problem(exc)
    headers = {"Content-Type": JSON, **told.headers}
    if told.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Told(orjson.dumps(as_ollama(told)), told.status, headers)


def problem(exc: Exception) -> Problem:
    """The problem of an exception; of a bug it says only where it is in the log."""
    if isinstance(exc, errors.RateLimited | errors.UpstreamBusy):
        return later(exc.code, str(exc), exc.retry_after_s, **exc.facts)
    if isinstance(exc, errors.PayloadTooLarge):
        return Problem("bad_request", str(exc))
    if isinstance(exc, RequestDataTooBig):
        return jsontext.too_large(conf.OLLAMA_BODY_MAX_BYTES)
    if isinstance(exc, _UNREADABLE):
        # Looking for a CSRF token, it has read the body.
        return Problem("unreadable", "the body cannot be read")
    found = problem_of(exc)
    if found is None:
        mark = uuid.uuid4().hex[:12]
        log.error("error %s", mark, exc_info=exc)
        found = Problem("internal_error", f"internal error {mark}")
    return found


async def _own(asked: Asked) -> Told:
    return await _generated(asked, prompts.parse(asked.value()))


async def _generate(asked: Asked) -> Told:
    return await _generated(asked, mirrored.generate(asked.value()))


async def _chat(asked: Asked) -> Told:
    return await _generated(asked, mirrored.chat(asked.value()))


async def _embed(asked: Asked) -> Told:
    return await _generated(asked, mirrored.embed(asked.value()))


async def _generated(asked: Asked, prompt: prompts.Prompt) -> Told:
    who, fresh = asked.who, asked.wants_fresh()
    seat = await ollama.generate(who.key, prompt, name=who.name, fresh=fresh)
    try:
        how = await seat.ready()
        headers = {"Content-Type": JSON, "X-Cache": how}
        # By browsers and proxies nothing is kept: it is personal.
        headers["Cache-Control"] = "no-store"
        if seat.age_s is not None:
            headers["Age"] = str(int(seat.age_s))
        if not prompt.stream:
            whole = orjson.dumps(await ollama.whole(seat))
            seat.close()
            return Told(whole, headers=headers)
        # From here on the door closes the seat, also when the client goes.
        headers |= {"Content-Type": _NDJSON}
        headers["X-Accel-Buffering"] = "no"  # nginx would collect the lines
        return Told(Relay(seat), headers=headers)
    except BaseException:
        # Also when the client goes while it waits: the door then cancels this.
        seat.close()
        raise


async def _tags(asked: Asked) -> Told:
    return await _looked(asked, ollama.models)


async def _ps(asked: Asked) -> Told:
    return await _looked(asked, lambda: ollama.models(loaded=True))


async def _version(asked: Asked) -> Told:
    return await _looked(asked, ollama.version)


async def _show(asked: Asked) -> Told:
    named = mirrored.show(asked.value())
    return await _looked(asked, lambda: ollama.show(named))


async def _looked(asked: Asked, look: Callable[[], Awaitable[dict[str, Any]]]) -> Told:
    wait_s = await ratelimit.atake(*throttles.bucket_of(asked.who, hot=False))
    if wait_s:
        raise errors.RateLimited("too many calls", retry_after_s=wait_s)
    return Told(orjson.dumps(await look()), headers={"Content-Type": JSON})


async def _root(asked: Asked) -> Told:
    """What Ollama says at its root; clients look there whether it is up."""
    return Told(b"Ollama is running", headers={"Content-Type": "text/plain"})


_POST: Final = ("POST",)
_GET: Final = ("GET", "HEAD")
_CALLS: Final[dict[str, tuple[tuple[str, ...], Callable[[Asked], Awaitable[Told]]]]] = {
    "": (_GET, _root),
    "generate": (_POST, _own),
    "api/generate": (_POST, _generate),
    "api/chat": (_POST, _chat),
    "api/embed": (_POST, _embed),
    "api/tags": (_GET, _tags),
    "api/ps": (_GET, _ps),
    "api/show": (_POST, _show),
    "api/version": (_GET, _version),
}
