"""The writes of one answer: its head and its body in one, no chunks for HTTP/1.0.

uvicorn writes them one by one, a system call each, and sends chunks to everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

_GO_ON: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Joined:
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


def unchunked(cycle: Any) -> Callable[[Any], Awaitable[None]]:
    """What sends an answer without chunks, to who may not get any (RFC 9112, 6.1).

    uvicorn ends the connection of such a call in any case. An answer without a length
    has for it that of each part as it comes.
    """
    send, is_sized = cycle.send, True

    async def plain(message: Any) -> None:
        nonlocal is_sized
        if message["type"] == "http.response.start":
            names = [name.lower() for name, _ in message.get("headers", ())]
            is_sized = b"content-length" in names
            cycle.chunked_encoding = None if is_sized else False
        elif not is_sized:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return plain
