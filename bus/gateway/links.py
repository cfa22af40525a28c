"""HTTP to the model server: a request, its answer as it comes, kept connections.

It stands on httptools alone, as our web server does (README, decisions).

A request is sent once: a generation that was begun twice is paid for twice. So whether
a kept connection is still there is asked before anything is sent on it; what breaks
afterwards is an error and never a reason to ask again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import select
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, unquote, urlsplit
from weakref import WeakKeyDictionary, WeakSet

import httptools

_KEPT_MOST: Final = 8
_HEAD_MOST: Final = 64 * 1024
_END_S: Final = 1.0  # for the end of an answer to come, behind all that was wanted
_Loop = asyncio.AbstractEventLoop
_PORTS: Final = {"http": 80, "https": 443}


class Broken(Exception):
    """The connection ended midway, or what came over it is no HTTP."""


class Unreachable(Broken):
    """There is no connection to be had."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is; `prefix` is the path of its URL, `fields` go in each head."""

    host: str
    port: int
    secure: bool
    prefix: str
    fields: str


@functools.lru_cache(maxsize=8)
def place(url: str) -> Place:
    """The server of a URL; ValueError for what is none of `http` or `https`."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("not http://host:port")
    netloc = parts.netloc.rpartition("@")[2]
    fields = f"Host: {netloc}\r\nUser-Agent: task-mesh\r\nAccept: */*\r\n"
    # Uncompressed: lines leave the moment they come, and nothing can swell.
    fields += "Accept-Encoding: identity\r\n"
    if parts.username is not None:
        given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        basic = base64.b64encode(given.encode()).decode()
        fields += f"Authorization: Basic {basic}\r\n"
    if not netloc.isascii() or not netloc.isprintable() or " " in netloc:
        raise ValueError("a host that is no name")
    return Place(
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        parts.scheme == "https",
        quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"),
        fields,
    )


@contextlib.asynccontextmanager
async def asked(
    where: Place, path: str, body: bytes | None, *, connect_s: float, until: float
) -> AsyncIterator[Answer]:
    """The answer to one request, from its head on: POST with a JSON body, else GET.

    `until` is a time of the loop, as in `Answer.more`. Raises TimeoutError beyond it,
    Unreachable without a connection within `connect_s`, else Broken. Whoever leaves by
    an exception closes the connection; after a complete answer it is kept.
    """
    link = _kept_link(where) or await _connected(where, connect_s)
    try:
        link.send(_request(where, path, body))
        await link.head(until)
        yield link
    except BaseException:
        link.close()
        raise
    link.release()


class Answer(asyncio.Protocol):
    """One connection, and the answer that comes over it."""

    def __init__(self, kept: list[Answer]) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}  # the names in small letters
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._head_bytes = 0
        self._ended = True  # nothing is asked
        self._why: str = ""  # it broke
        self._news: asyncio.Future[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None

    async def more(self, until: float) -> bytes | None:
        """What has come of the body, once anything has; None at its end."""
        while not self._parts:
            if self._ended:
                return None
            await self._comes(until)
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def head(self, until: float) -> None:
        """Wait for status and fields."""
        while not self.status:
            await self._comes(until)

    def send(self, request: bytes) -> None:
        """Ask, on a connection on which nothing else is asked."""
        self.status, self.fields, self._parts = 0, {}, []
        self._head_bytes, self._ended = 0, False
        if self._transport.is_closing():
            # Nobody comes by again to tell who waits for the answer.
            self._broke("it ended before it was asked")
            return
        self._transport.write(request)

    def close(self) -> None:
        """End it, whatever comes."""
        self._transport.abort()

    def release(self) -> None:
        """Nobody reads on: keep the connection, once the answer has ended."""
        if self._transport.is_closing():
            self.close()
        elif not self._ended:
            self._leaving = self._loop.call_later(_END_S, self.close)
            _left.setdefault(self._loop, WeakSet()).add(self)
        elif len(self._kept) < _KEPT_MOST:
            self._kept.append(self)
        else:
            self.close()

    def is_there(self) -> bool:
        """Whether the server still holds this idle connection, as far as can be known:
        its end may have come and wait for this loop to turn."""
        if self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self.close()  # nobody asked
            return
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._broke(f"no HTTP: {exc}")
        if not self.status and self._head_bytes > _HEAD_MOST:
            self._broke("a head without end")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
        if self in self._kept:
            self._kept.remove(self)
        sized = self.fields.keys() & {b"content-length", b"transfer-encoding"}
        if self.status and not sized and exc is None:
            self._ended = True  # such a body ends with its connection
        elif not self._ended:
            self._broke("it ended midway")
        self._wake()

    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.fields = {}  # the answer proper is still to come
            return
        self.status = status
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._leaving is None:
            self._parts.append(body)
            self._wake()

    def on_message_complete(self) -> None:
        if not self.status:
            return
        self._ended = True
        if not self._parser.should_keep_alive():
            self._transport.close()
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
            self.release()
        self._wake()

    async def _comes(self, until: float) -> None:
        if self._why:
            raise Broken(self._why)
        self._news = self._loop.create_future()
        timer = self._loop.call_at(until, self._late, self._news)
        try:
            await self._news
        finally:
            timer.cancel()

    @staticmethod
    def _late(news: asyncio.Future[None]) -> None:
        if not news.done():
            news.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _broke(self, why: str) -> None:
        self._why = self._why or why
        self._wake()
        self.close()


# Keyed weakly by loop: connections must never be used on another loop than their own.
_kept: WeakKeyDictionary[_Loop, dict[Place, list[Answer]]] = WeakKeyDictionary()
_left: WeakKeyDictionary[_Loop, WeakSet[Answer]] = WeakKeyDictionary()


def close_all() -> None:
    """Close the connections of the running loop that nobody uses, before it ends."""
    loop = asyncio.get_running_loop()
    kept = [link for links in _kept.pop(loop, {}).values() for link in links]
    left = [link for link in _left.pop(loop, ()) if link._leaving is not None]
    for link in kept + left:
        link.close()


def _links(where: Place) -> list[Answer]:
    return _kept.setdefault(asyncio.get_running_loop(), {}).setdefault(where, [])


def _kept_link(where: Place) -> Answer | None:
    links = _links(where)
    while links:
        link = links.pop()
        if link.is_there():
            return link
        link.close()
    return None


async def _connected(where: Place, connect_s: float) -> Answer:
    loop, links = asyncio.get_running_loop(), _links(where)
    tls = _trusted() if where.secure else None
    try:
        async with asyncio.timeout(connect_s):
            _, link = await loop.create_connection(
                lambda: Answer(links), where.host, where.port, ssl=tls
            )
    except OSError as exc:  # TimeoutError and ssl's are of this kind
        raise Unreachable(str(exc)) from exc
    return link


@functools.cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


def _request(where: Place, path: str, body: bytes | None) -> bytes:
    method = "GET" if body is None else "POST"
    head = f"{method} {where.prefix}{path} HTTP/1.1\r\n{where.fields}"
    if body is None:
        return f"{head}\r\n".encode()
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
