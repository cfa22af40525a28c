"""Agents that die by the hundred: forked from one process, which starts them anew.

Starting an agent as a user does takes a second of computing, forking one a few
milliseconds. What dies is the same: a process with its connections, threads and tasks
in hand. As `up` does, the parent sees it end and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from tests.support.processes import ROOT

_PR_SET_PDEATHSIG: Final = 1


@contextmanager
def nursery(topic: str, handler: str, agents: int) -> Iterator[None]:
    """So many agents of a topic at any time; `handler` is `module:function`."""
    argv = [sys.executable, "-m", "tests.support.nursery", topic, handler, str(agents)]
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "meshsite.settings"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
        assert process.poll() is None, "the nursery died"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def main(topic: str, handler: str, count: int) -> None:
    """Keep so many agents alive until SIGTERM; then let them drain."""
    import django

    django.setup()
    from bus import handlers, janitor

    found = handlers.load(handler, topic)
    over = False

    def stop(*_: object) -> None:
        nonlocal over
        over = True

    signal.signal(signal.SIGTERM, stop)
    alive: set[int] = set()
    while not over:
        while len(alive) < count:
            alive.add(_fork(found))
        if gone := _ended(alive):
            janitor.take_from_child(gone)
        else:
            time.sleep(0.01)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 10
    while alive and time.monotonic() < until:
        _ended(alive) or time.sleep(0.01)


def _ended(alive: set[int]) -> int:
    """The pid of one that has ended, which is no longer among the living; or 0."""
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        alive.clear()
        return 0
    alive.discard(pid)
    return pid


def _fork(found: object) -> int:
    pid = os.fork()
    if pid:
        return pid
    _live(found)


def _live(found: object) -> NoReturn:
    from bus.agent import Agent

    # However the nursery ends, no agent outlives it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        Agent([found], concurrency=10).run()  # type: ignore[list-item]
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
