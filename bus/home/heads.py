"""The connections of the web server: a bound and a deadline for heads.

httptools would collect a head without end, and wait for the rest of it for ever. Who
offers another protocol than a socket's loses his body with it, or is never answered.
Fields behind a chunked body would become part of its head, and a connection that ends
in garbage would be told so in place of the answers it is still owed.

Timers cost: one that is set and taken back for each request costs as much as reading
its head. So a connection has one for as long as it lasts, and a body that came with
its head is marked, so that nobody sets one to wait for it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .joined import Joined, unchunked

HEAD_MAX_BYTES: Final = 65_536  # as much as h11 allows; browsers send a few thousand
HEAD_TIMEOUT_S: Final = 20.0  # from a connection or the first byte to a whole head
# An extension of the scope: the body is here, `receive` gives it without waiting.
WHOLE: Final = "mesh.whole_body"
# Another: a call that ends the connection as it is, with what nobody has taken of it.
ABORT: Final = "mesh.abort"
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
_TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_FRAMES: Final = frozenset((b"content-length", b"transfer-encoding"))  # of a body


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request line and headers grow or take beyond the bound.

    Counted in whole reads that bring nothing but more of a head (or of what is no body:
    trailers, extensions of chunks, empty lines), so the read with which it began comes
    on top: whole requests may stand before it there.
    """

    _in_head = False
    _in_body = False
    _moved = False  # by this read: a head began or ended, or there was some body
    _idle_bytes = 0
    _open = 0  # requests whose heads are whole, and which are not answered yet
    _last_words: bytes | None = None
    _deadline: asyncio.TimerHandle | None = None
    _idle_since: float | None = None  # between requests, by the loop's clock

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _Parser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Also for who says nothing at all; between requests `timeout_keep_alive` holds.
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._never_idle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None:
            return  # what was on its way is dropped
        self._moved = False
        super().data_received(data)
        if self._last_words is not None or self.transport.is_closing():
            return
        if not self._moved:
            self._idle_bytes += len(data)
        if self._idle_bytes > HEAD_MAX_BYTES:
            self._hang_up(_REFUSAL)
        elif self._deadline is None and (self._in_head or not self._moved):
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def on_message_begin(self) -> None:
        self._in_head = self._moved = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)
        # Else it stands behind the body. What proxies and we ourselves decide by has
        # been decided by then, so it is dropped (RFC 9110, 6.5.1).

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._progress()
        if self._declines():
            return  # the parser begins again without the offer
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # who sends it cannot read the answer
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # else it is a websocket
            cycle: Any = self.cycle
            cycle.transport = Joined(self.transport, self.loop)
            if cycle.scope["http_version"] == "1.0":
                cycle.send = unchunked(cycle)
            self._in_body = True
            self._open += 1

    def on_body(self, body: bytes) -> None:
        self._progress()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._declines():
            self._in_body = False
            self._progress()
            extended: Any = self.scope
            extended["extensions"] = {WHOLE: {}, ABORT: self.transport.abort}
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """What uvicorn's does, but for its timer."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._idle_since = self.loop.time()
                if self.timeout_keep_alive_task is None:
                    self._wait_idle(self.timeout_keep_alive)
        self._open -= 1
        if self._last_words is not None and not self._open:
            # Behind the head of an answer to HEAD, which is held until the loop turns.
            self.loop.call_soon(self._end)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None  # uvicorn calls this with each read

    def _never_idle(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def _wait_idle(self, left_s: float) -> None:
        later = self.loop.call_later
        self.timeout_keep_alive_task = later(left_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle for as long as it may; else look again when due."""
        idle_s = 0.0
        if self._idle_since is not None:
            idle_s = self.loop.time() - self._idle_since
        if idle_s < self.timeout_keep_alive:
            self._wait_idle(self.timeout_keep_alive - idle_s)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._hang_up(_BAD_REQUEST)

    def handle_websocket_upgrade(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self._open or hosts != 1:
            # A handshake behind calls that run would take the connection from under
            # their answers.
            self._hang_up(_BAD_REQUEST)
            return
        self._never_idle()  # a socket has no requests to be between
        super().handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        if not protocol.handshake_initiated and not self.transport.is_closing():
            # A head that is beyond the bounds of the library for sockets, which has
            # said so to nobody: without a word from us it would hang there for ever.
            self.transport.write(_BAD_REQUEST)
            self.transport.close()

    def declined(self) -> bytes | None:
        """The head that was read, without an offer of another protocol.

        None where there was none, or it is taken up. Whoever offers HTTP/2 by
        `Upgrade: h2c` (Java's client does with each first call) speaks HTTP/1.1 until
        a server agrees (RFC 9110, 7.8).
        """
        if not self._declines():
            return None
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _declines(self) -> bool:
        offers = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return offers and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # The handshake of a socket is a GET without a body, and nothing else.
        return (
            super()._should_upgrade()
            and self.parser.get_method() == b"GET"
            and not any(name in _FRAMES for name, _ in self.headers)
        )

    def _progress(self) -> None:
        self._moved = True
        self._idle_bytes = 0
        if self._deadline is not None:
            self._in_time()

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.pipeline:
            # We are late, not he: nothing is read while requests wait for their turn.
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)
        elif not self.transport.is_closing():
            self._hang_up(_TOO_LATE if self._in_head or self._in_body else b"")

    def _hang_up(self, words: bytes) -> None:
        """Take nothing more, and end with these words once all that is owed is said.

        A request that came whole is answered first: in its place these words would tell
        of a task that was written that it was not.
        """
        self._last_words = words
        if self._in_body and not self.cycle.response_complete:
            # The last request did not come whole: these are its answer.
            self._open -= 1
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self._last_words = b""
        if not self._open:
            self._end()

    def _end(self) -> None:
        if self._last_words and not self.transport.is_closing():
            self.transport.write(self._last_words)
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """A parser that goes on behind an offer of another protocol that is declined.

    httptools stops there: it takes the body for the first words of that protocol.
    """

    def __init__(self, protocol: BoundedHeads) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # As uvicorn has it: an answer to the first of several requests in one read.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: Any) -> None:
        """Read on; HttpParserError, or HttpParserUpgrade for a socket."""
        feed = httptools.HttpRequestParser.feed_data
        parser, left = self, memoryview(data)
        while left:
            try:
                feed(parser, left)
            except httptools.HttpParserUpgrade as exc:
                head = self._protocol.declined()
                if head is None:
                    raise
                self._protocol.parser = parser = _Parser(self._protocol)
                feed(parser, head)
                left = left[exc.args[0] :]
            else:
                return
