"""The requests of one connection that wait for their turn: few, and the rest unread.

uvicorn makes an object of each request as soon as it is read, thousands of one read,
and reads on with each answer. So a stranger who sends requests without looking at the
answers would fill the memory, a hundred times as fast as he sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl

from .heads import BoundedHeads

_PIECE: Final = 4_096  # bytes that are looked at at once: a hundred small requests


class InTurn(BoundedHeads):
    """Looks at no more of what came while a request waits behind the one that runs."""

    _unread = b""  # only while a request waits
    _running: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        if self.pipeline:
            # uvicorn tells the last that nobody listens, which has not begun.
            for cycle, _ in self.pipeline:
                cycle.on_response = _nothing  # else we would hold each other
            self.pipeline.clear()
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.pipeline:
            self._unread += data  # one read was under way
        elif len(data) <= _PIECE:
            super().data_received(data)
        else:
            self._look(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.flow.read_paused or self.pipeline or self.transport.is_closing():
            return
        data, self._unread = self._unread, b""
        self._look(data)
        self.flow.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _look(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self.pipeline and self._is_ours():
            super().data_received(left[:_PIECE])  # type: ignore[arg-type]
            left = left[_PIECE:]
        self._unread = bytes(left) if self.pipeline else b""

    def _is_ours(self) -> bool:
        """Whether what comes is still HTTP: neither a socket's, nor nobody's."""
        ours: Any = self
        return self.transport.get_protocol() is ours and not self.transport.is_closing()


def _nothing() -> None:
    pass


class _Flow(FlowControl):
    """Reading goes on once no request waits, whoever wants to read on."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
