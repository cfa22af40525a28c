"""A process of ours that does not outlive us."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

OUTPUT_WAIT_S: Final = 0.2
SERVING_FD: Final = "MESHSERVING_FD"  # the end of a pipe; see `tell_serving`

# Prints what comes through the pipe under the name, in a thread of its own.
Follow = Callable[[str, IO[bytes]], threading.Thread]

# Between fork and exec only the child can ask for a parent-death signal. Python code
# there (`preexec_fn`) may deadlock in a process with threads, so a second small
# interpreter (15 ms) asks and then becomes the program. SIGPIPE and SIGXFSZ go back
# to their defaults because every interpreter ignores them for itself.
_SHIM: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):
    os._exit(1)  # the parent died before we asked: nobody is left to signal us
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as exc:
    os.write(2, f"cannot run {sys.argv[3]}: {exc.strerror}\\n".encode())
    os._exit(127)
"""


def start(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    keep_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, so that a Ctrl-C does not reach it.

    When we die, by SIGKILL even, Linux sends it SIGTERM. Strictly, it does so when the
    *thread* that called this ends: call from one that lives as long as the process.
    Elsewhere an orphan lives on. `stdout` takes stderr too.
    """
    command = list(argv)
    if sys.platform == "linux":
        asks = [str(int(signal.SIGTERM)), str(os.getpid())]
        command = [sys.executable, "-I", "-S", "-c", _SHIM, *asks, *command]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=keep_fds,
        start_new_session=True,
    )


def said(
    argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None
) -> str | None:
    """What a short program prints; None where it does not run or end well in time."""
    try:
        ended_well = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended_well.stdout.decode(errors="replace")


class Process(Protocol):
    """What is kept of a started process; subprocess.Popen is one."""

    pid: int
    stdout: IO[bytes] | None

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...


@dataclass(frozen=True)
class Spec:
    """A child to keep running. The lowest `stop_rank` stops first, equals together."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # added to ours
    stop_rank: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 5.0
    essential: bool = False  # giving it up ends everything
    keep_fds: Sequence[int] = ()  # open files of ours that it gets, by number
    # Starts it sooner than `argv`, told where to tell that it serves; None: not now.
    fork: Callable[[int], Process | None] | None = None
    # Told the pid once it ended, on a thread of its own.
    on_end: Callable[[int], object] | None = None


class Child:
    """A process made after a spec, to be launched as often as it dies."""

    def __init__(self, spec: Spec, follow: Follow) -> None:
        self.spec = spec
        self.name = spec.name
        self._follow = follow
        self._process: Process | None = None
        self._group_id = 0
        self._output: threading.Thread | None = None
        self._told = -1  # where it says that it serves
        self._served = False

    @property
    def served(self) -> bool:
        """Whether it came as far as its work in this life, if it tells so."""
        if self._told >= 0:
            with contextlib.suppress(BlockingIOError):
                self._served = bool(os.read(self._told, 1))
                self._forget_told()
        return self._served

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        if self._process is None or self.poll() is not None:
            return None
        return self._process.pid

    def launch(self) -> None:
        self._forget_told()
        self._served = False
        self._told, tell = os.pipe()
        os.set_blocking(self._told, False)
        try:
            forked = self.spec.fork(tell) if self.spec.fork is not None else None
            self._process = forked or self._started(tell)
        finally:
            os.close(tell)
        self._group_id = self._process.pid
        assert self._process.stdout is not None
        self._output = self._follow(self.name, self._process.stdout)

    def _started(self, tell: int) -> Process:
        # Unbuffered: through a pipe Python would hold lines back for minutes.
        env = {**os.environ, "PYTHONUNBUFFERED": "1", SERVING_FD: str(tell)}
        return start(
            self.spec.argv,
            env=env | dict(self.spec.env),
            stdout=subprocess.PIPE,
            keep_fds=[*self.spec.keep_fds, tell],
        )

    def poll(self) -> int | None:
        """The exit code once it ended; whatever it left in its group ends as well."""
        if self._process is None or self._process.poll() is None:
            return None
        # Once, because the number may soon belong to somebody else's group. Usually
        # nothing is left, hence no such group.
        if self._group_id:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group_id, signal.SIGKILL)
            if self.spec.on_end is not None:
                threading.Thread(
                    target=self.spec.on_end, args=[self._group_id], daemon=True
                ).start()
            self._group_id = 0
        return self._process.returncode

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process, if it still runs, not to its whole group."""
        if self._process is not None:
            self._process.send_signal(signum)

    def _forget_told(self) -> None:
        if self._told >= 0:
            os.close(self._told)
            self._told = -1

    def drain(self) -> None:
        """Give its output a moment to be read to the end."""
        if self._output is not None:
            self._output.join(OUTPUT_WAIT_S)


def tell_serving() -> None:
    """Tell whoever started this process as a `Child`, if anybody, that it serves now.

    What dies after that is restarted sooner than what never came so far.
    """
    fd = os.environ.pop(SERVING_FD, "")  # not for what we start ourselves
    if not fd.isdecimal():
        return
    with contextlib.suppress(OSError):  # not ours after all, or nobody listens
        if stat.S_ISFIFO(os.fstat(int(fd)).st_mode):
            os.write(int(fd), b"1")
            os.close(int(fd))


def ending(returncode: int) -> str:
    """How a process ended, for a sentence: `exit code 3` or `SIGKILL`."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
