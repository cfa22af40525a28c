"""The append-only file of a server of ours, synced each second from outside of it.

At `appendfsync everysec` a server puts its writes off while a sync of its own runs, and
replies before it has written: a `kill -9` in those milliseconds (up to 2 s where the
disk is stalled) takes along what it acknowledged. Told not to sync, it writes before
every reply, always. So it is told that, and its file is synced here: the kernel has one
copy of it, whoever asks for the sync.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
POLICY: Final = "no"  # what the server is told: leave it to the system, that is to us
# macOS has only the heavier one.
_sync: Final = getattr(os, "fdatasync", os.fsync)


class Process(Protocol):
    """What is asked of the server's process."""

    def poll(self) -> int | None: ...


def start(directory: Path, process: Process, tell: Callable[..., bool]) -> None:
    """Sync what grows in `directory` until `process` ends, on a thread of its own.

    `tell` sends the server a command; False if it did not take it. The first sync that
    fails is the last: from then on the server is to sync by itself, since it refuses
    writes when its disk fails. Where somebody deleted the file, it writes a new one.
    """
    syncing = _Syncing(directory, process, tell)
    threading.Thread(target=syncing.run, name="syncing", daemon=True).start()


class _Syncing:
    def __init__(
        self, directory: Path, process: Process, tell: Callable[..., bool]
    ) -> None:
        self._directory = directory
        self._process = process
        self._tell = tell
        # Kept open, because the kernel tells of a failed write once per open file.
        self._open: dict[str, int] = {}
        self._synced: dict[str, int] = {}  # how long each was then

    def run(self) -> None:
        try:
            while self._process.poll() is None:
                began = time.monotonic()
                self._sync_all()
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
        except OSError as exc:
            log.error(
                "syncing %s failed: %s; the server does it itself from now on",
                self._directory,
                exc.strerror,
            )
            everysec = ("CONFIG", "SET", "appendfsync", "everysec")
            while self._process.poll() is None and not self._tell(*everysec):
                time.sleep(EVERY_S)  # it loads, say; nobody syncs until it answers
        finally:
            for fd in self._open.values():
                os.close(fd)

    def _sync_all(self) -> None:
        # What the server has done with, it syncs by itself before it lets go of it.
        growing = {path.name: path for path in self._directory.glob("*.incr.aof")}
        if self._open and not growing and self._process.poll() is None:
            log.error(
                "the append-only file in %s was deleted while the server writes to it; "
                "it writes a new one now",
                self._directory,
            )
            self._tell("BGREWRITEAOF")
        for name in self._open.keys() - growing.keys():
            os.close(self._open.pop(name))
            self._synced.pop(name, None)
        for name, path in growing.items():
            if name not in self._open:
                try:
                    self._open[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # gone since we looked
            fd = self._open[name]
            length = os.fstat(fd).st_size
            if length != self._synced.get(name):
                _sync(fd)
                self._synced[name] = length
