"""For how long one call is repeated while the server is away or busy."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import redis

from . import errors, refusals
from .conf import conf

_TIMEOUTS: Final = (redis.TimeoutError, TimeoutError)
_until: ContextVar[float] = ContextVar("_until", default=math.inf)


@contextlib.contextmanager
def until(moment: float) -> Iterator[None]:
    """Repeat no call made inside after this moment of `time.monotonic`.

    For calls that share one patience: each still has a first try.
    """
    token = _until.set(moment)
    try:
        yield
    finally:
        _until.reset(token)


class Pause:
    """How long to wait before the next try of one call; raises when it is over.

    With `brief` one timeout is the end: pages read so, and a server that hangs would
    hold them up again. `unknown` is what it raises at the end where an earlier try may
    have been executed.
    """

    def __init__(
        self,
        wrote: bool,
        retry_s: float | None = None,
        *,
        brief: bool = False,
        began: float | None = None,
    ) -> None:
        self._wrote, self._brief = wrote, brief
        budget = conf.SEND_RETRY_S if retry_s is None else retry_s
        began = time.monotonic() if began is None else began
        self._until = min(began + budget, _until.get())
        self._next = 0.02
        self.unknown: errors.OutcomeUnknown | None = None

    def after(self, exc: Exception) -> float:
        left = self._until - time.monotonic()
        error = refusals.mapped(exc, wrote=self._wrote)
        if isinstance(error, errors.OutcomeUnknown):
            self.unknown = error
        over = left <= 0 or (self._brief and isinstance(exc, _TIMEOUTS))
        if over or not refusals.is_passing(exc):
            # One send without an answer may have been executed, whatever became of
            # those after it.
            raise self.unknown or error from exc
        wait = min(left, self._next * (0.5 + random.random()))
        self._next = min(self._next * 2, 0.5)
        return wait
