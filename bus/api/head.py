"""Heads of requests as the express lane reads them, heads of answers as it writes them.

Both are Django's: what the lane does not read the way Django does it leaves to Django,
and what middleware writes into every answer is written by that middleware, once.
"""

from __future__ import annotations

import functools
from io import BytesIO
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port, validate_host
from django.utils.module_loading import import_string

from bus import whence

from .asgi import Message
from .problems import MEDIA_TYPE, Problem

REQUEST_ID: Final = whence.HEADER.lower().encode()
KEY: Final = b"idempotency-key"
# Beyond this a body costs more to read than the lane saves, and holds up all others:
# Django reads it in a thread.
BODY_MOST: Final = 64 * 1024
_READ: Final = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        KEY,
        b"x-request-id",
    )
)
_WRITERS: Final = (
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
)
Headers = tuple[tuple[bytes, bytes], ...]


class Head(NamedTuple):
    """What the lane has to know of a request before its body is there."""

    token: bytes
    length: int
    content_type: str
    content_encoding: str
    key: str | None  # Idempotency-Key
    request_id: str | None


def read(scope: Any) -> Head | None:
    """The head of a usual request with a token; None for what Django is to judge.

    Sessions, other schemes, headers given twice, hosts that are not ours, large bodies,
    what the site answers over https only.
    """
    if settings.SECURE_SSL_REDIRECT and scheme_of(scope) != "https":
        return None
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in found:
                return None
            found[name] = value
        elif name == b"cookie":
            return None
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    length = found.get(b"content-length", b"0")
    plain = (
        scheme.lower() == b"bearer"
        and token.isalnum()
        and length.isdigit()
        and (length == b"0" or not length.startswith(b"0"))
        and int(length) <= BODY_MOST
        and _is_ours(found.get(b"host", b""))
    )
    if not plain:
        return None
    return Head(
        token,
        int(length),
        found.get(b"content-type", b"").decode("latin-1"),
        found.get(b"content-encoding", b"").decode("latin-1"),
        key_of(_text(found.get(KEY))),
        _text(found.get(b"x-request-id")),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def key_of(text: str | None) -> str | None:
    """An Idempotency-Key without the spaces around it, no part of it by RFC 9110."""
    return None if text is None else text.strip(" \t")


def _is_ours(host: bytes) -> bool:
    return _allowed(host, tuple(settings.ALLOWED_HOSTS))


@functools.lru_cache(maxsize=256)
def _allowed(host: bytes, names: tuple[str, ...]) -> bool:
    """Whether a request may be for this host; where in doubt, Django decides."""
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, names)


def scheme_of(scope: Any) -> str:
    """Over which scheme the client came, as Django sees it.

    Our web server reads what its trusted proxies say of that; SECURE_PROXY_SSL_HEADER
    is for sites behind another one.
    """
    told: tuple[str, str] | None = settings.SECURE_PROXY_SSL_HEADER
    if told:
        wanted = told[0].removeprefix("HTTP_").replace("_", "-").lower().encode()
        for name, value in scope["headers"]:
            if name == wanted:
                first = value.decode("latin-1").partition(",")[0].strip()
                return "https" if first == told[1] else "http"
    scheme: str = scope["scheme"]
    return scheme


def of_site(scope: Any) -> Headers:
    """What the site's middleware writes into every answer to such a request."""
    return _written_over(scheme_of(scope))


@functools.lru_cache(maxsize=8)
def _written_over(scheme: str) -> Headers:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    request: HttpRequest = ASGIRequest({**scope, "scheme": scheme}, BytesIO())
    answer = HttpResponse()
    del answer["Content-Type"]
    for name in _WRITERS:
        if name in settings.MIDDLEWARE:
            # Not what it does before a view: it might answer in its place.
            import_string(name)(lambda _: answer).process_response(request, answer)
    return tuple(
        (name.lower().encode("ascii"), text.encode("latin-1"))
        for name, text in answer.items()
    )


def refusing(
    scope: Any, problem: Problem, length: int, kind: str = MEDIA_TYPE
) -> Message:
    """The start of an answer that tells a problem, where Django does not answer."""
    told = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
        (REQUEST_ID, whence.request_id(told).encode()),
        *of_site(scope),
        *(
            (name.lower().encode(), text.encode())
            for name, text in problem.headers.items()
        ),
    ]
    status = problem.status
    return {"type": "http.response.start", "status": status, "headers": headers}
