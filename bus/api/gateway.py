"""The door to the Ollama gateway: plain async Django, with errors as `{"error": text}`.

Not REST framework: its negotiation would refuse headers that Ollama's clients send, and
a stream must leave line by line. Authentication and statuses are those of the API.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import orjson
from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.request import RawPostDataException
from django.http.response import HttpResponseBase
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions as drf

from bus import errors, ollama, roles
from bus.conf import conf
from bus.gateway import prompts
from bus.gateway.seats import Seat

from . import auth, jsontext
from .exceptions import problem_of
from .problems import Problem, later

log = logging.getLogger(__name__)

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]
_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"


def _door(view: View) -> View:
    """Whoever asks is known and may generate; whatever goes wrong is `{"error"}`.

    Exempt from Django's CSRF check because it asks bearers as well; sessions are
    checked by their authentication class.
    """

    async def guarded(request: HttpRequest, **parts: Any) -> HttpResponseBase:
        try:
            request.principal = await _principal(request)  # type: ignore[attr-defined]
            return await view(request, **parts)
        except Exception as exc:
            return await _refusal(request, exc)

    exempt: View = csrf_exempt(guarded)
    return exempt


@_door
async def generate(request: HttpRequest) -> HttpResponseBase:
    """POST ollama/generate: one generation, whole or as a stream of JSON lines."""
    if request.method != "POST":
        raise drf.MethodNotAllowed(str(request.method))
    prompt = prompts.parse(_body(request))
    owner = request.principal.key  # type: ignore[attr-defined]
    seat = await ollama.generate(owner, prompt, fresh=_wants_fresh(request))
    try:
        how = await seat.ready()
        response: HttpResponseBase
        if prompt.stream:
            # From here on the response closes the seat, also when the client goes.
            response = StreamingHttpResponse(_Relay(seat), content_type=_NDJSON)
            response["X-Accel-Buffering"] = "no"  # nginx would collect the lines
        else:
            answer = orjson.dumps(await ollama.whole(seat))
            response = HttpResponse(answer, content_type=_JSON)
            seat.close()
    except BaseException:
        # Also when the client goes while it waits: Django then cancels this view.
        seat.close()
        raise
    response["X-Cache"] = how
    if seat.age_s is not None:
        response["Age"] = str(int(seat.age_s))
    response["Cache-Control"] = "no-store"  # by browsers and proxies: it is personal
    return response


@_door
async def nowhere(request: HttpRequest, rest: str) -> HttpResponseBase:
    """Any other path below ollama/."""
    raise Problem("not_found", "no such path; there is POST ollama/generate")


class _Relay:
    """The lines of a seat as they come; an error after the first becomes the last."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for line in self._seat:
                yield line + b"\n"
        except Exception as exc:
            # The status is long sent: this is how Ollama itself tells it.
            yield orjson.dumps({"error": _told(exc).detail}) + b"\n"
        finally:
            self.close()

    def close(self) -> None:
        """Called by the response at its end, whether or not it was ever iterated."""
        self._seat.close()


async def _principal(request: HttpRequest) -> roles.Principal:
    principal = await auth.aauthenticate(request)
    if not principal.may(roles.GENERATE):
        role = principal.role or "nobody"
        raise drf.PermissionDenied(f"the role {role} does not include generating")
    return principal


def _body(request: HttpRequest) -> Any:
    """The JSON of the body, under any content type, as Ollama itself takes it."""
    encoding = request.headers.get("Content-Encoding", "")
    limit = conf.OLLAMA_BODY_MAX_BYTES
    return jsontext.document(request.body, _JSON, encoding, limit=limit)


def _wants_fresh(request: HttpRequest) -> bool:
    said = request.headers.get("Cache-Control", "").lower()
    return any(part.strip() in ("no-cache", "no-store") for part in said.split(","))


async def _refusal(request: HttpRequest, exc: Exception) -> HttpResponse:
    problem = _told(exc)
    if isinstance(exc, drf.AuthenticationFailed):
        problem = await sync_to_async(auth.counted)(problem, request)
    body = {"error": problem.detail, **problem.extra}
    response = HttpResponse(orjson.dumps(body), _JSON, problem.status)
    for name, value in problem.headers.items():
        response[name] = value
    if problem.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    if problem.status == 405:
        response["Allow"] = "POST"
    return response


def _told(exc: Exception) -> Problem:
    """What a client hears of an exception; of a bug only where it is in the log."""
    if isinstance(exc, errors.RateLimited | errors.UpstreamBusy):
        return later(exc.code, str(exc), exc.retry_after_s, **exc.facts)
    if isinstance(exc, errors.PayloadTooLarge):
        return Problem("bad_request", str(exc))
    if isinstance(exc, RequestDataTooBig):
        return jsontext.too_large(conf.OLLAMA_BODY_MAX_BYTES)
    if isinstance(exc, SuspiciousOperation | RawPostDataException):
        # Looking for a CSRF token, Django has read a body that says it is a form.
        return Problem("unreadable", "the body cannot be read")
    problem = problem_of(exc)
    if problem is None:
        mark = uuid.uuid4().hex[:12]
        log.error("error %s", mark, exc_info=exc)
        problem = Problem("internal_error", f"internal error {mark}")
    return problem


# With and without the slash: a redirect would turn a POST into a GET.
urlpatterns: Final = [
    re_path(r"^ollama/generate/?$", generate, name="ollama-generate"),
    re_path(r"^ollama/(?P<rest>.*)$", nowhere),
]
