"""The claim of one mesh on its data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from .. import errors

# How long a claim waits for the server of a killed mesh, which is on its way out.
ORPHAN_WAIT_S: Final = 5.0
_POLL_S: Final = 0.02


class Claim:
    """Two locks: `lock`, which the server inherits, plus `owner`, which it does not.

    flock belongs to the open file, so `lock` is free once the mesh *and* its server are
    gone: after a SIGKILL of the mesh a second one cannot write the same append-only
    file before the orphaned server has ended. `owner` tells the two cases apart, more
    surely than a process id, which may be a zombie's or another container's.
    """

    def __init__(self, directory: Path) -> None:
        self._lock_path = directory / "lock"
        self._owner_path = directory / "owner"
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = self._locked()
            self._owner_fd = _opened(self._owner_path)
            # Blocks only for the instant in which somebody asks whether we live.
            fcntl.flock(self._owner_fd, fcntl.LOCK_EX)
            self.note("")
        except OSError as exc:
            raise errors.ServerError(
                f"the data directory {directory} cannot be used: {exc.strerror}; make "
                "it a writable directory, or name another one with MESH_VAR_DIR"
            ) from exc

    def note(self, server: str) -> None:
        """Tell whoever is refused who we are, and `server`: its pid and URL."""
        os.ftruncate(self._owner_fd, 0)
        os.pwrite(self._owner_fd, f"{os.getpid()}\n{server}\n".encode(), 0)

    def holds(self) -> bool:
        """Whether the directory is still the one we locked."""
        return _same_file(self.fd, self._lock_path)

    def release(self) -> None:
        """Give the directory up; the files stay, since deleting a lock is a race."""
        os.close(self._owner_fd)
        os.close(self.fd)

    def _locked(self) -> int:
        deadline = time.monotonic() + ORPHAN_WAIT_S
        while True:
            fd = _opened(self._lock_path)
            if _try_lock(fd, fcntl.LOCK_EX):
                # `rm -rf var` between open and flock leaves us a lock on nothing.
                if _same_file(fd, self._lock_path):
                    return fd
            elif self._has_owner() or time.monotonic() > deadline:
                os.close(fd)
                raise self._refusal()
            os.close(fd)
            time.sleep(_POLL_S)

    def _has_owner(self) -> bool:
        fd = _opened(self._owner_path)
        free = _try_lock(fd, fcntl.LOCK_SH)
        os.close(fd)
        return not free

    def _refusal(self) -> errors.ServerLocked:
        where = f"the data directory {self._directory} is in use"
        note = self._owner_path.read_text(errors="replace").split("\n")
        owner, server = note[0], note[1] if len(note) > 1 else ""
        pid, _, url = server.partition(" ")
        if self._has_owner():
            return errors.ServerLocked(
                f"{where} by the mesh of process {owner}, server at {url or '?'}. Stop "
                f"that one (Ctrl-C where it runs, or `kill {owner}`), or give this one "
                "another MESH_VAR_DIR",
            )
        return errors.ServerLocked(
            f"{where} by the server of a mesh that was killed, process {pid or '?'}. "
            f"It should have ended by itself; end it with `kill {pid or '?'}`"
        )


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
