"""Prints the output of many processes line by line, each under its name."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Final, TextIO

LINE_MAX_BYTES: Final = 65_536  # a longer line is printed in parts
# Lines waiting for a terminal that is stopped with Ctrl-S, or a pager nobody scrolls.
WAITING_MAX: Final = 10_000
_COLOURS: Final = ("36", "32", "35", "34", "33")


class Screen:
    """One writer for all: a line is never torn, and nobody waits for the terminal.

    Neither an agent's log call nor a restart may hang because the reader paused, so
    lines past WAITING_MAX are dropped, and counted on the screen.
    """

    def __init__(self, names: Sequence[str], out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        width = max(map(len, names), default=0)
        coloured = self._out.isatty() and not os.environ.get("NO_COLOR")
        self._prefixes = {}
        for index, name in enumerate(names):
            prefix = f"{name:<{width}} |"
            if coloured:
                prefix = f"\033[{_COLOURS[index % len(_COLOURS)]}m{prefix}\033[0m"
            self._prefixes[name] = prefix
        self._waiting: queue.Queue[str] = queue.Queue(WAITING_MAX)
        self._dropped = 0
        threading.Thread(target=self._write, daemon=True, name="screen").start()

    def line(self, name: str, text: str) -> None:
        """Print `text`, which may have several lines, under `name`."""
        for line in text.split("\n"):
            try:
                self._waiting.put_nowait(f"{self._prefixes[name]} {line}\n")
            except queue.Full:
                self._dropped += 1

    def follow(self, name: str, pipe: IO[bytes]) -> threading.Thread:
        """Print what comes through `pipe` until its last writer is gone."""

        def pump() -> None:
            with pipe:
                while raw := pipe.readline(LINE_MAX_BYTES):
                    self.line(name, raw.decode(errors="replace").rstrip("\r\n"))

        thread = threading.Thread(target=pump, daemon=True, name=f"output of {name}")
        thread.start()
        return thread

    def flush(self, timeout_s: float) -> None:
        """Give the writer a moment to catch up, for the last words before an exit."""
        until = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _write(self) -> None:
        while True:
            text = self._waiting.get()
            if self._dropped and not self._waiting.full():
                text += f"... {self._dropped} lines were not shown\n"
                self._dropped = 0  # a line lost in between is not counted
            try:
                self._out.write(self._printable(text))
                self._out.flush()
            except (OSError, ValueError):
                pass  # `up | head`: the reader has left, the mesh stays
            self._waiting.task_done()

    def _printable(self, text: str) -> str:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)
