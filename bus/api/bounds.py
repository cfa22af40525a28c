"""Requests are bounded before Django sees them: the body's size and time, the head.

Django would spool an endless body to disk, and REST framework takes a chunked body,
which has no length, for an empty one. So a body is read here, up to its limit, and
handed on whole with its length.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar, Final

from bus.conf import conf
from bus.home.heads import WHOLE

from . import jsontext
from .asgi import App, Receive, Send
from .head import refusing
from .parsers import body_limit
from .problems import Problem, later, told
from .schema import PREFIX

_URL_MOST: Final = 8 * 1024
_HEADERS_MOST: Final = 100
_HEAD_MOST: Final = 32 * 1024
_AGAIN_S: Final = 1.0
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 32 * 2**20
_LARGE: Final = (f"{PREFIX}/enqueue/batch", f"{PREFIX}/deliveries/complete")


def bounded(app: App) -> App:
    """The ASGI app, to which only bounded requests come."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with _Share() as share:
            try:
                length = _checked_head(scope)
                if length == 0:
                    await app(scope, receive, send)
                    return
                limit = body_limit(scope["path"] in _LARGE)
                if length is not None and length > limit:
                    raise jsontext.too_large(limit)
                body = await _arrived(scope, receive, limit, share)
            except Problem as problem:
                await _refuse(scope, receive, send, problem)
                return
            if body is not None:  # else the client is gone
                whole = scope if length is not None else _with_length(scope, len(body))
                await app(whole, _replay(body, receive), send)

    return outer


def _checked_head(scope: Any) -> int | None:
    """The length of the body; 0 where there is none, None where it is chunked."""
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _URL_MOST:
        raise Problem("uri_too_long", f"the URL has more than {_URL_MOST:,} bytes")
    headers = scope["headers"]
    length: int | None = 0
    size = hosts = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise jsontext.compressed()
            length = None
        elif name == b"content-length" and length is not None:
            if not value.isdigit() or len(value) > 18:
                raise Problem("unreadable", "Content-Length is no number")
            length = None if length else int(value)  # said twice: count
        elif name == b"host":
            hosts += 1
    if hosts != 1 and scope["http_version"] == "1.1":  # RFC 9112, 3.2
        raise Problem("bad_request", f"a request has one Host header, not {hosts}")
    if size > _HEAD_MOST or len(headers) > _HEADERS_MOST:
        raise Problem(
            "headers_too_large",
            f"more than {_HEADERS_MOST} headers, or {_HEAD_MOST:,} bytes of them",
        )
    return length


class _Share:
    """What one request takes of the memory that bodies may have in this process.

    They are read before anybody knows whose they are: without a bound on their sum a
    stranger with enough connections could fill the memory.
    """

    _all_bytes: ClassVar[int] = 0

    def __init__(self) -> None:
        self._bytes = 0

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, *_: object) -> None:
        _Share._all_bytes -= self._bytes

    def grow(self, size: int) -> None:
        """Hold `size` bytes more; Problem where no more may be held."""
        if _Share._all_bytes + size > conf.BODIES_MAX_BYTES:
            said = "too many bodies of requests are on their way, please try again"
            raise later("overloaded", said, _AGAIN_S, outcome="not_written")
        _Share._all_bytes += size
        self._bytes += size


async def _arrived(
    scope: Any, receive: Receive, limit: int, share: _Share
) -> bytes | None:
    """`_read` in time, Problem beyond it."""
    try:
        if WHOLE in scope.get("extensions", ()):
            return await _read(receive, limit, share)
        async with asyncio.timeout(conf.BODY_TIMEOUT_S):
            return await _read(receive, limit, share)
    except TimeoutError:
        said = f"the body did not arrive within {conf.BODY_TIMEOUT_S:g} s"
    except asyncio.CancelledError:
        # By a server that ends, and has waited for as long as it may.
        said = "the body did not arrive before the server stopped"
    raise Problem("request_timeout", said)


async def _read(receive: Receive, limit: int, share: _Share) -> bytes | None:
    """The whole body; None if the client went away. Problem beyond the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise jsontext.too_large(limit)
        share.grow(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _with_length(scope: Any, length: int) -> Any:
    sizes = (b"content-length", b"transfer-encoding")
    headers = [pair for pair in scope["headers"] if pair[0] not in sizes]
    headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the client still does."""
    given = False

    async def inner() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return inner


async def _refuse(scope: Any, receive: Receive, send: Send, problem: Problem) -> None:
    """Answer and hang up: what is left of the body is nobody's.

    Closing while the client still sends resets the connection, and the reset overtakes
    the answer: so for a moment what comes is taken and dropped.
    """
    body, kind = told(scope["path"], problem)
    start = refusing(scope, problem, len(body), kind)
    start["headers"].append((b"connection", b"close"))
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(_LINGER_S):
            await _drop(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drop(receive: Receive) -> None:
    """Read on until the body ends, the client goes, or it is too much even for that."""
    left = _LINGER_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
