"""What `up` starts, restarts when it dies, stops in order."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol, TextIO

from . import errors
from .home import child, screen

TICK_S: Final = 0.05  # how late a death may be noticed
# The first restart comes at once, since agents must be back within seconds; a child
# that keeps dying is held back so that its log stays readable.
RESTART_AFTER_S: Final = 0.2
RESTART_AFTER_MAX_S: Final = 10.0
STEADY_AFTER_S: Final = 30.0  # a life this long makes up for earlier deaths
# What served before it died was most likely killed by a task, whose neighbours are not
# to wait. A task is given up after five kills: this is for a handful of killers.
AT_ONCE_TRIES: Final = 30
# Ten seconds for the whole stop is the promise; the server's part is kept free.
STOP_LIMIT_S: Final = 9.5
SERVER_STOP_S: Final = 2.0
KILL_WAIT_S: Final = 0.5  # from SIGKILL to a reaped child
# A wrong option or setting does not get better by repeating: 2 is what argparse and
# Django exit with, 78 is EX_CONFIG.
USAGE_EXITS: Final = (2, 78)
USAGE_TRIES: Final = 3


class Server(Protocol):
    """The embedded server, which starts first, then stops last."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def launch(self) -> None: ...
    def poll(self) -> int | None: ...
    def last_words(self) -> str: ...
    def announce(self) -> None: ...
    def stop(self, timeout_s: float) -> None: ...


@dataclass
class _Watch:
    """How it goes with one watched process."""

    target: child.Child | Server
    essential: bool = False
    since: float = 0.0
    deaths: int = 0  # in a row, each after a short life
    at_once: int = 0  # restarts in a row of one that had served
    usage_exits: int = 0  # in a row
    again_at: float | None = None  # None while it is believed to run
    given_up: bool = False

    def served(self) -> bool:
        """Whether it is a child that came as far as its work before it died."""
        return isinstance(self.target, child.Child) and self.target.served

    def put_off(self, now: float) -> float:
        """Schedule the next start after one more death; returns the delay."""
        if now - self.since >= STEADY_AFTER_S:
            self.deaths = self.at_once = 0
        if self.served() and self.at_once < AT_ONCE_TRIES:
            self.deaths = 0
            self.at_once += 1
            self.again_at = now + RESTART_AFTER_S
            return RESTART_AFTER_S
        delay_s = min(RESTART_AFTER_S * 2.0**self.deaths, RESTART_AFTER_MAX_S)
        self.deaths = min(self.deaths + 1, 10)
        self.again_at = now + delay_s
        return delay_s


class Supervisor:
    """Keeps children running, with the embedded server they need if there is one.

    One thread watches, restarts, stops. Call `start` from the main thread: children
    are told of the death of the thread that started them (see `child.start`).
    """

    def __init__(
        self,
        specs: Sequence[child.Spec],
        *,
        server: Server | None = None,
        out: TextIO | None = None,
        name: str = "up",
    ) -> None:
        self.name = name  # under which it speaks on the screen
        names = [name, *(spec.name for spec in specs)]
        self.exit_code = 0
        self._screen = screen.Screen(names, out)
        self._server = server
        follow = self._screen.follow
        self._children = [child.Child(spec, follow) for spec in specs]
        self._watches = [_Watch(one, one.spec.essential) for one in self._children]
        self._stop_asked = False
        self._hurry_asked = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the server if there is one, wait for it, then start all children."""
        try:
            if self._server is not None:
                self._server.start()
                self._server.announce()
            for one in self._children:
                one.launch()
        except BaseException:
            self._stop_all()
            raise
        now = time.monotonic()
        for watch in self._watches:
            watch.since = now
        self._thread = threading.Thread(
            target=self._run, args=[now], daemon=True, name="supervisor"
        )
        self._thread.start()

    def until(self, ready: Callable[[], bool]) -> bool:
        """Wait for `ready`, which may take its time; False if all ended before."""
        while not ready():
            if self._ended.wait(TICK_S):
                return False
        return True

    def run_until_signal(self) -> int:
        """Wait for SIGINT, SIGTERM, SIGHUP or the end of hope; stop, give exit code."""
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            signals.append(signal.SIGHUP)
        before = {signum: signal.signal(signum, self._on_signal) for signum in signals}
        try:
            # In slices: a signal that reaches another thread does not end a wait of
            # this one, and only this one runs handlers.
            while not self._ended.wait(0.2):
                pass
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        return self.exit_code

    def stop(self) -> int:
        """Stop children by rank, then the server; Ctrl-C meanwhile hurries."""
        self._stop_asked = True
        while self._thread is not None and not self._ended.is_set():
            try:
                self._ended.wait(0.2)
            except KeyboardInterrupt:
                self._hurry_asked = True
        return self.exit_code

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        targets: list[child.Child | Server] = [*self._children]
        targets += [self._server] if self._server else []
        return {one.name: one.pid for one in targets if one.pid is not None}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # Flags only: a lock taken here could be held by the very code we interrupt.
        # A second SIGTERM is no wish to hurry: `make` passes on the one that a service
        # manager has sent to the whole group already.
        if self._stop_asked and signum == signal.SIGINT:
            self._hurry_asked = True
        self._stop_asked = True

    def _run(self, now: float) -> None:
        watches = [*self._watches]
        if self._server is not None:
            watches.append(_Watch(self._server, since=now))
        try:
            while not self._stop_asked and not self._hopeless():
                for watch in watches:
                    self._tend(watch)
                time.sleep(TICK_S)
        except Exception:
            # A bug of ours: stopping in order beats children nobody watches.
            self._say(traceback.format_exc())
            self.exit_code = 70  # EX_SOFTWARE
        finally:
            self._stop_all()
            self._screen.flush(timeout_s=0.3)
            self._ended.set()

    def _tend(self, watch: _Watch) -> None:
        now = time.monotonic()
        if watch.given_up:
            return
        if watch.again_at is None:
            code = watch.target.poll()
            if code is not None:
                self._mourn(watch, code, now)
        elif now >= watch.again_at:
            watch.again_at, watch.since = None, now
            try:
                watch.target.launch()
            except (errors.ServerError, OSError) as exc:
                delay_s = watch.put_off(now)
                self._say(
                    f"{watch.target.name} cannot be started, next try in "
                    f"{delay_s:.1f} s: {exc}"
                )

    def _mourn(self, watch: _Watch, code: int, now: float) -> None:
        """Tell of a death; decide whether the child gets another life."""
        name, lived_s = watch.target.name, now - watch.since
        if isinstance(watch.target, child.Child):
            watch.target.drain()
        elif code > 0:
            self._say(watch.target.last_words())
        fate = f"{name} ended with {child.ending(code)} after {lived_s:.1f} s"
        watch.usage_exits = watch.usage_exits + 1 if code in USAGE_EXITS else 0
        if watch.usage_exits >= USAGE_TRIES:
            watch.given_up = True
            self._say(f"{fate}; after {USAGE_TRIES} tries given up: see above why")
        else:
            self._say(f"{fate}; it starts again in {watch.put_off(now):.1f} s")

    def _hopeless(self) -> bool:
        given_up = [watch.given_up for watch in self._watches]
        lost = any(watch.given_up and watch.essential for watch in self._watches)
        if lost or (given_up and all(given_up)):
            self.exit_code = 1
            self._say("nothing is left to run" if not lost else "cannot do without it")
            return True
        return False

    def _stop_all(self) -> None:
        self._stop_asked = True  # so that one Ctrl-C from here on hurries
        ranks = sorted({one.spec.stop_rank for one in self._children})
        if any(one.pid for one in self._children):
            self._say("stopping; Ctrl-C hurries")
        end_at = time.monotonic() + STOP_LIMIT_S - SERVER_STOP_S - 1.0
        for index, rank in enumerate(ranks, 1):
            stage = [one for one in self._children if one.spec.stop_rank == rank]
            reserved_s = KILL_WAIT_S + (len(ranks) - index) * 2 * KILL_WAIT_S
            self._stop_stage(stage, end_at - reserved_s)
        if self._server is not None:
            # Last, since agents hand back what they hold on their way out; SIGTERM
            # even in a hurry, so that it flushes its file.
            self._server.stop(SERVER_STOP_S)

    def _stop_stage(self, stage: Sequence[child.Child], end_at: float) -> None:
        running = [one for one in stage if one.pid is not None]
        for one in running:
            one.send(one.spec.stop_signal)
        longest_s = max((one.spec.stop_timeout_s for one in running), default=0.0)
        end_at = min(end_at, time.monotonic() + longest_s)

        def over() -> bool:
            return self._hurry_asked or all(one.pid is None for one in running)

        _wait(over, end_at)
        for one in running:
            if one.pid is not None:
                why = "as you hurry" if self._hurry_asked else "it did not stop in time"
                self._say(f"{one.name} is killed: {why}")
                one.send(signal.SIGKILL)
        _wait(
            lambda: all(one.pid is None for one in running),
            time.monotonic() + KILL_WAIT_S,
        )
        for one in running:
            one.drain()  # before the server's stop

    def _say(self, text: str) -> None:
        self._screen.line(self.name, text.rstrip())


def _wait(over: Callable[[], bool], end_at: float) -> None:
    while not over() and time.monotonic() < end_at:
        time.sleep(0.01)
