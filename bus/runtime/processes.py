"""A child process that runs one `cpu=True` handler call at a time."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from .. import databases, errors, failures, handlers, messages
from ..handlers import Handler

_NAME: Final = "mesh-process"
# Between two looks whether a process that does not answer is there at all.
_LOOK_S: Final = 0.5


class ProcessDied(Exception):
    """The process of this attempt ended before it answered."""


class Child:
    """One process, started on its first call and again after a death or a kill."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        # Spawn: a fork would copy the threads' locks and the server connections.
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Connection | None = None
        self._killed = False  # it may seem alive for a moment more

    def prepare(self) -> None:
        """Have a living process, so that a call does not wait for one to start."""
        process = self._process
        if process is None or self._killed or not process.is_alive():
            self._start()

    def call(
        self, task: messages.Task, wanted: Callable[[], bool] = lambda: True
    ) -> Any:
        """The handler's value for `task.payload`; its exception, or ProcessDied.

        Who stops a run ends its process, and may have come before that began.
        """
        self.prepare()
        if not wanted():
            raise ProcessDied("stopped before it began")
        assert self._pipe is not None
        try:
            self._pipe.send(task)
            ok, value = self._heard()
        except (EOFError, OSError):
            code = self._reap()
            raise ProcessDied(f"the process ended with {_meaning(code)}") from None
        if ok:
            return value
        raise value

    def kill(self) -> None:
        """End the process now, whatever it is doing."""
        process = self._process
        if process is not None and process.is_alive():
            self._killed = True
            process.kill()

    def _start(self) -> None:
        mine, theirs = self._context.Pipe()
        settings = os.environ.get("DJANGO_SETTINGS_MODULE", "")
        process = self._context.Process(
            target=_serve,
            args=(theirs, settings, self._handler.path, self._handler.topic),
            daemon=True,
            name=_NAME,
        )
        process.start()
        theirs.close()
        self._process, self._pipe, self._killed = process, mine, False
        # Its first word says that it is up: starting is nobody's run time.
        with contextlib.suppress(EOFError, OSError):
            self._heard()

    def _heard(self) -> Any:
        """The next word of the process; EOFError where it has died.

        The end of the pipe does not tell: what a handler has forked holds it open too.
        """
        assert self._pipe is not None
        while not self._pipe.poll(_LOOK_S):
            # It may have answered, and died, between these two looks.
            if not self._process.is_alive() and not self._pipe.poll():
                raise EOFError
        return self._pipe.recv()

    def _reap(self) -> int | None:
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process.is_alive():  # a fork of it would be waited for as well
            process.join(5)
        code = process.exitcode
        return None if code is None else int(code)


@atexit.register
def kill_all() -> None:
    """End all processes at once, as the agent's own end has to.

    Where an agent ends without its slots, multiprocessing sends them a SIGTERM, which
    they do not heed, and waits for them; it looks after this.
    """
    for process in multiprocessing.active_children():
        if process.name == _NAME:
            process.kill()


def _meaning(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(pipe: Connection, settings: str, path: str, topic: str) -> None:
    """The child's life: set Django up once, then answer calls until the pipe closes."""
    # Ctrl-C and the end of a terminal go to its whole group, and so does what service
    # managers send; the agent decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN: programs that a handler starts would inherit it.
        signal.signal(number, _unheard)
    if settings:
        import django

        django.setup()
    function: Any = None
    broken: BaseException | None = None
    try:
        function = handlers.load(path, topic).function
    except Exception as exc:
        broken = exc
    pipe.send("up")
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if broken is not None:
                raise broken
            databases.tidy()
            answer = (True, function(task.payload, task))
        except Exception as exc:
            # The traceback does not travel; what it says does.
            with contextlib.suppress(Exception):
                exc.mesh_facts = failures.describe(exc)  # type: ignore[attr-defined]
            answer = (False, exc)
        except BaseException as exc:
            text = f"the handler raised {type(exc).__name__}"
            answer = (False, RuntimeError(text))
        pipe.send_bytes(_packed(answer))
        databases.tidy()


def _unheard(number: int, frame: object) -> None:
    """Go on."""


def _packed(answer: tuple[bool, Any]) -> bytes:
    """The answer as bytes that the agent can surely read."""
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)
        return data
    except Exception as exc:
        ok, value = answer
        if not ok:
            return pickle.dumps((False, _stand_in(value)))
        kind = type(value).__name__
        text = f"the handler returned {kind}, which cannot travel: {exc}"
        return pickle.dumps((False, RuntimeError(text)))


def _stand_in(exc: Exception) -> Exception:
    """An error that can travel, means the same and is told as the same."""
    made: Exception = RuntimeError()
    if isinstance(exc, errors.GiveUp):
        made = errors.GiveUp()
    elif isinstance(exc, errors.Retry):
        made = errors.Retry(exc.delay_s)
    vars(made)["mesh_facts"] = failures.describe(exc)
    return made
