"""A process with all code loaded, from which agents are forked in milliseconds.

Starting Python with Django takes a second of computing, which is what a task that kills
its agents costs, again and again. A cradle has done it once, handlers included. Where
their modules start threads or open connections nothing is forked: two agents must share
nothing but code.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Final

from . import child

_FD: Final = "MESH_CRADLE_FD"  # the socket of a process that is to be a cradle
_READY: Final = b"ready"
_FORK: Final = b"fork"
_NONE: Final = 0  # instead of a pid: the system has no room for another process
_LOAD_S: Final = 60.0  # for a cradle to load everything on a busy machine
# For a fork, or the exit code of one that ended. To give a cradle up ends its forks,
# so that it has to be stuck, not slow.
_ANSWER_S: Final = 30.0
_PDEATHSIG: Final = 1  # of prctl


class Forked:
    """A process forked from a cradle, which the cradle reaps."""

    def __init__(self, cradle: Cradle, pid: int, watch: int, out: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = out
        self.returncode: int | None = None
        self._cradle = cradle
        self._watch = watch  # a pidfd: never another process that got this number

    def poll(self) -> int | None:
        """Its exit code once it ended, negative for a signal."""
        watcher = select.poll()  # unlike select(), for any number of open files
        watcher.register(self._watch, select.POLLIN)
        if self.returncode is None and watcher.poll(0):
            self.returncode = self._cradle.code_of(self)
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watch, sig)

    def __del__(self) -> None:
        os.close(self._watch)


class Cradle:
    """The parent's end: starts the cradle when it is first needed, asks it for forks.

    `argv` is a program that calls `fork_on_request` once it has loaded what it needs.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._lock = threading.Lock()  # the supervisor's thread, and whoever asks pids
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._was_ready = False  # a cradle was, before
        self._useless = sys.platform != "linux" or not hasattr(os, "pidfd_open")
        # Forks of the cradle at the line, by pid, whose exit code it has yet to tell.
        self._told: dict[int, Forked] = {}

    def fork(self, tell: int) -> Forked | None:
        """A fork that tells `tell` when it serves.

        None if there is no cradle (yet), or if the fork died before it told its pid.
        """
        with self._lock:
            if self._useless or not self._is_ready():
                return None
            assert self._line is not None
            out, into = os.pipe()
            pid, watches = -1, list[int]()
            try:
                socket.send_fds(self._line, [_FORK], [into, tell])
                while not watches and pid != _NONE:
                    pid, watches = self._hear()
            except (OSError, EOFError):
                self._lose()
            finally:
                os.close(into)
            if not watches:
                os.close(out)
                return None
            forked = Forked(self, pid, watches[0], os.fdopen(out, "rb"))
            self._told[pid] = forked
            return forked

    def code_of(self, forked: Forked) -> int:
        """The exit code of a fork that has ended."""
        with self._lock:
            try:
                # A fork may outlive its cradle. The next one knows nothing of it, may
                # still load, and may have a fork of its own by that number.
                while self._told.get(forked.pid) is forked:
                    self._hear()
            except (OSError, EOFError):
                self._lose()
            # Without its cradle nobody knows; it was sent SIGTERM as that ended.
            code = forked.returncode
            return -signal.SIGTERM if code is None else code

    def close(self) -> None:
        """End the cradle; forks that still run are sent SIGTERM."""
        with self._lock:
            self._useless = True
            self._lose()

    def _is_ready(self) -> bool:
        """Whether forks may be asked for; waits for the first cradle only.

        A later one is for a later fork: meanwhile agents must not wait.
        """
        if self._line is None:
            self._start()
        assert self._line is not None
        if self._ready:
            return True
        first = not self._was_ready
        self._line.settimeout(_LOAD_S if first else 0)
        try:
            self._ready = self._line.recv(16) == _READY
        except BlockingIOError:
            return False
        except OSError:
            self._ready = False
        if not self._ready:
            # What cannot be loaded, or may not be forked, is not tried again.
            self._useless = True
            self._lose()
            return False
        self._was_ready = True
        self._line.settimeout(_ANSWER_S)
        return True

    def _start(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", _FD: str(theirs.fileno())}
        with theirs:
            fds = [theirs.fileno()]
            self._process = child.start(self._argv, env=env, keep_fds=fds)
        self._line = mine

    def _hear(self) -> tuple[int, list[int]]:
        """The pid in the next message and what came with it; its fork gets its code."""
        if self._line is None:
            raise EOFError
        data, fds, _, _ = socket.recv_fds(self._line, 64, 1, socket.MSG_CMSG_CLOEXEC)
        words = data.split()
        if not words:
            raise EOFError
        pid = int(words[0])
        if len(words) == 2:
            if pid not in self._told:  # it died before it told: there is no such fork
                return _NONE, fds
            self._told.pop(pid).returncode = int(words[1])
        return pid, fds

    def _lose(self) -> None:
        """Forget this cradle, which ends when it hears of it."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(1)
        self._line = self._process = None
        self._ready = False
        self._told.clear()


def fork_on_request() -> None:
    """Be a cradle if this process was started as one; returns in each fork of it only.

    Call it when all code is loaded, before any thread or connection is made.
    """
    fd = os.environ.pop(_FD, "")
    if not fd.isdecimal():
        return
    line = socket.socket(fileno=int(fd))
    line.set_inheritable(False)
    if not _may_fork(line.fileno()):
        os._exit(0)
    gc.freeze()  # what is there already stays shared: no collection writes to it
    line.send(_READY)
    parent = os.getpid()
    alive: dict[int, int] = {}  # pidfd -> pid
    watcher = select.poll()
    watcher.register(line.fileno(), select.POLLIN)
    while True:
        for fd_ready, _ in watcher.poll():
            if fd_ready in alive:
                pid = alive.pop(fd_ready)
                watcher.unregister(fd_ready)
                os.close(fd_ready)
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(BrokenPipeError):  # see below
                    line.send(f"{pid} {os.waitstatus_to_exitcode(status)}".encode())
                continue
            _, given, _, _ = socket.recv_fds(line, 16, 2, socket.MSG_CMSG_CLOEXEC)
            if not given:
                os._exit(0)  # the parent is gone, or needs us no more
            try:
                pid = os.fork()
            except OSError:
                pid = -1
                line.send(str(_NONE).encode())
            if not pid:
                for watch in alive:
                    os.close(watch)
                _become(parent, line, *given)
                return
            for each in given:
                os.close(each)
            if pid > 0:
                watch = os.pidfd_open(pid)
                alive[watch] = pid
                watcher.register(watch, select.POLLIN)


def _may_fork(own_fd: int) -> bool:
    """Whether this process has neither threads nor connections, and pidfds work."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # forbidden by a sandbox
        return False
    # A lock that another thread holds would stay locked in the fork for ever.
    if len(os.listdir("/proc/self/task")) > 1:
        return False
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, own_fd):
            with contextlib.suppress(FileNotFoundError):  # of the listing itself
                kind = os.readlink(f"/proc/self/fd/{name}")
                if kind.startswith(("socket:", "pipe:", "anon_inode:")):
                    return False
    return True


def _become(parent: int, line: socket.socket, out: int, tell: int) -> None:
    """In a new fork: be what `child.start` would have made, then say so."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os._exit(1)  # it died before we asked
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.environ[child.SERVING_FD] = str(tell)
    watch = os.pidfd_open(os.getpid())
    with line:
        socket.send_fds(line, [str(os.getpid()).encode()], [watch])
    os.close(watch)
