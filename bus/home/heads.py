"""The connections of the web server: a bound and a deadline for heads, one write.

httptools would collect a head without end, and wait for the rest of it for ever; and
uvicorn writes the head of an answer and its body one by one, a system call each.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES: Final = 65_536  # as much as h11 allows; browsers send a few thousand
HEAD_TIMEOUT_S: Final = 20.0  # from a connection or the first byte to a whole head
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
_TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_GO_ON: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request line and headers grow or take beyond the bound.

    Counted in whole reads while a head is incomplete, so one that arrives in a single
    read may be as long as that read.
    """

    _in_head = False
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Also for who says nothing at all; between requests `timeout_keep_alive` holds.
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes > HEAD_MAX_BYTES:
            return  # refused; what was on its way is dropped
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.transport.write(_REFUSAL)
                self.transport.close()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._in_time()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # else it is a websocket
            joined: Any = _Joined(self.transport, self.loop)
            self.cycle.transport = joined

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            if self._in_head:
                self.transport.write(_TOO_LATE)
            self.transport.close()


class _Joined:
    """A transport for one answer, whose head goes out together with what follows it."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send, or hold a head until the loop turns: a stream's first part may wait."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif data.startswith(b"HTTP/1.1 ") and data != _GO_ON:
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close once all is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection ends."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            if not self._transport.is_closing():
                self._transport.write(head)
