"""What is written on a connection is taken in time, or the connection ends.

A transport that is closed waits until all of it is taken: whoever asks and never reads
would keep his place, and the memory of his answer, for as long as he likes.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from .turns import InTurn

TAKE_S: Final = 60.0  # a system's buffers hide for a while what a slow peer takes


class TakenInTime(InTurn):
    """Ends a connection whose peer takes nothing of what waits for him."""

    _watching: asyncio.TimerHandle | None = None
    _left = 0  # bytes that waited when it was looked at last

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left = sys.maxsize  # some was taken, whatever is written now

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def _end(self) -> None:
        super()._end()
        self._watch()

    def _watch(self) -> None:
        """Look again later, where somebody has to take something before we go on."""
        if self._watching is None and (
            self.flow.write_paused or self.transport.is_closing()
        ):
            self._left = self.transport.get_write_buffer_size()
            if self._left:
                self._watching = self.loop.call_later(TAKE_S, self._not_taken)

    def _not_taken(self) -> None:
        self._watching = None
        if self.transport.get_write_buffer_size() >= self._left:
            self.transport.abort()
        else:
            self._watch()
