"""The writes of one answer: its head and its body in one.

uvicorn writes them one by one, a system call each.
"""

from __future__ import annotations

import asyncio
from typing import Final

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
