"""The claim of one mesh on its data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from . import errors

# How long a claim waits for the server of a killed mesh, which is on its way out.
ORPHAN_WAIT_S: Final = 5.0
_POLL_S: Final = 0.02


class Claim:
    """A lock on `directory/lock`, shared with the server process.

    flock belongs to the open file, which the server inherits: the claim ends when the
    mesh *and* its server are gone. So after a SIGKILL of the mesh a second one cannot
    write the same append-only file before the orphaned server has ended.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "lock"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = self._locked()
            self.note("")
        except OSError as exc:
            raise errors.ServerError(
                f"the data directory {directory} cannot be used: {exc.strerror}; make "
                "it a writable directory, or name another one with MESH_VAR_DIR"
            ) from exc

    def _locked(self) -> int:
        deadline = time.monotonic() + ORPHAN_WAIT_S
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner, server = _holders(fd)
                os.close(fd)
                # Whoever took the lock has not noted who it is yet: ask again.
                waits = owner == "" or not _lives(owner)
                if not waits or time.monotonic() > deadline:
                    raise self._refusal(owner, server) from None
                time.sleep(_POLL_S)
                continue
            # `rm -rf var` between open and flock leaves us a lock on nothing.
            if _same_file(fd, self._path):
                return fd
            os.close(fd)

    def _refusal(self, owner: str, server: str) -> errors.ServerLocked:
        where = f"the data directory {self.directory} is in use"
        if _lives(owner):
            at = f", server at {server.partition(' ')[2]}" if server else ""
            return errors.ServerLocked(
                f"{where} by the mesh of process {owner}{at}. Stop that one (Ctrl-C "
                f"where it runs, or `kill {owner}`), or start this one with another "
                "MESH_VAR_DIR",
            )
        pid = server.partition(" ")[0] or "unknown"
        return errors.ServerLocked(
            f"{where} by the server of a mesh that was killed, process {pid}. "
            f"It should have ended by itself; end it with `kill {pid}`"
        )

    def note(self, server: str) -> None:
        """Tell whoever is refused who we are, and `server`: its pid and URL."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n{server}\n".encode(), 0)

    def holds(self) -> bool:
        """Whether the directory is still the one we locked."""
        return _same_file(self.fd, self._path)

    def release(self) -> None:
        """Give the directory up; the file stays, since deleting a lock is a race."""
        os.close(self.fd)


def _holders(fd: int) -> tuple[str, str]:
    lines = os.pread(fd, 1000, 0).decode(errors="replace").split("\n")
    return lines[0], lines[1] if len(lines) > 1 else ""


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _same_file(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
