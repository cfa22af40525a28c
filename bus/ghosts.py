"""Tasks that a reader by hand holds on the server without knowing of them.

Its process ended with tasks in hand and was started again under the same name, or the
reply that brought them was lost. While its registration lives nobody else takes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from . import deliveries, judge, keys, scripts
from .conf import conf

_READERS_MOST: Final = 10_000  # that a process remembers
_LEFT: Final = "its process ended with the task in hand"

# What this process gave out lately, so that nothing is twice: consumer, fence, id.
given: Final[deque[tuple[str, str, str]]] = deque(maxlen=2_000)


class Reader:
    """One consumer of a working group, as the threads of this process share it.

    What it does not know of is handed over and comes with the next claim, under a new
    fence. Two processes under one name cannot be told apart: the fence of what the
    older one has in hand is outdated then.
    """

    def __init__(self, topic: str, group: str, consumer: str) -> None:
        self._who = topic, group, consumer
        self._turn = threading.Condition()
        self._reads = 0  # under way
        self._first = True  # whether an earlier process may have left it something
        self._lost_since: float | None = None  # when the first read began that raised

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around one read: what it brings is among the `given` as this ends."""
        with self._turn:
            self._reads += 1
        began, lost = time.monotonic(), True
        try:
            yield
            lost = False
        finally:
            with self._turn:
                self._reads -= 1
                if lost and self._lost_since is None:
                    self._lost_since = began
                self._turn.notify_all()

    def look(self) -> None:
        """Before a read: hand over what is ours and in nobody's hand, if that may be.

        No read of another thread is under way meanwhile: what it is about to be told
        of would look lost.
        """
        if not self._first and self._lost_since is None:
            return
        with self._turn:
            self._turn.wait_for(lambda: not self._reads)
            if self._first:
                _hand_over_what_was_left(*self._who)
                self._first = False
            if self._lost_since is not None:
                _release_lost(*self._who, self._lost_since)
                self._lost_since = None


_readers: Final[dict[tuple[str, str, str], Reader]] = {}
_lock = threading.Lock()


def reader(topic: str, group: str, consumer: str) -> Reader:
    """The reader that all threads of this process share."""
    who = topic, group, consumer
    found = _readers.get(who)
    if found is None:
        with _lock:
            if len(_readers) >= _READERS_MOST:
                _readers.pop(next(iter(_readers)))
            found = _readers.setdefault(who, Reader(*who))
    return found


def forget() -> None:
    """Know of no reads any more, as a process that begins."""
    global _lock
    _lock = threading.Lock()
    _readers.clear()


os.register_at_fork(after_in_child=forget)


def _hand_over_what_was_left(topic: str, group: str, consumer: str) -> None:
    """Take from a registered name what an earlier process read under it.

    It counts as a lost lease: a task that kills whoever runs it is found out. A name
    that was never registered has leases, and any number of processes may use it.
    """
    by_hand = keys.agent_of(consumer) == consumer
    if by_hand and judge.registered_until([consumer]) != [None]:
        judge.take(topic, group, consumer, 0, _LEFT)


def _release_lost(topic: str, group: str, consumer: str, since: float) -> None:
    """Give back, at no attempt's cost, what came since then and was given to nobody."""
    known, after = set(given.copy()), ""  # copied in one step: others go on
    while True:
        # No older than the read that was lost, and a little for the way.
        age_ms = int((time.monotonic() - since) * 1000) + 50
        ask = [group, consumer, after, age_ms]
        now, _, after, flat = scripts.run("recover", topic, ask)
        args: list[Any] = [group, consumer, topic, conf.RESULTS_KEEP]
        for item in deliveries.parse_deliveries(topic, now, flat):
            if (consumer, item.fence, item.id) not in known:
                args += [item.sid, item.record.n, item.id]
        if len(args) > 4:
            scripts.run("release", topic, args)
        if not after:
            return
