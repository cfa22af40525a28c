"""Tasks that a reader by hand holds on the server without knowing of them.

Its process ended with tasks in hand and was started again under the same name, or the
reply that brought them was lost. While its registration lives nobody else takes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

from . import deliveries, errors, judge, keys, scripts
from .conf import conf

_READERS_MOST: Final = 10_000  # that a process remembers
_RETRY_S: Final = 0.05
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

    def look(self, again: bool = False) -> None:
        """Before a read: hand over what is ours and in nobody's hand, if that may be.

        No read of another thread is under way meanwhile: what it is about to be told
        of would look lost. Other processes may read under a name that was never
        registered, and what they hold looks the same: there only the call whose own
        answer was lost looks, `again` and at once. The rest has its lease.
        """
        if not self._first and self._lost_since is None:
            return
        with self._turn:
            self._turn.wait_for(lambda: not self._reads)
            if self._first:
                _hand_over_what_was_left(*self._who)
                self._first = False
            if self._lost_since is not None:
                if again or _is_registered(self._who[2]):
                    _release_lost(*self._who, self._lost_since)
                self._lost_since = None


# In the order in which they read last.
_readers: Final[OrderedDict[tuple[str, str, str], Reader]] = OrderedDict()
_lock = threading.Lock()


def reader(topic: str, group: str, consumer: str) -> Reader:
    """The reader that all threads of this process share."""
    who = topic, group, consumer
    with _lock:
        found = _readers.get(who)
        if found is None:
            found = _readers[who] = Reader(*who)
            if len(_readers) > _READERS_MOST:
                _readers.popitem(last=False)
        _readers.move_to_end(who)
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
    if keys.agent_of(consumer) == consumer and _is_registered(consumer):
        judge.take(topic, group, consumer, 0, _LEFT)


def _is_registered(consumer: str) -> bool:
    """Whether the name is, or was and may be again: it is one process's then."""
    return judge.registered_until([consumer]) != [None]


def _release_lost(topic: str, group: str, consumer: str, since: float) -> None:
    """Give back, at no attempt's cost, what came since then and was given to nobody."""
    known, after = set(given.copy()), ""  # copied in one step: others go on
    while True:
        now, _, after, flat = _recovered(topic, [group, consumer, after], since)
        args: list[Any] = [group, consumer, topic, conf.RESULTS_KEEP]
        for item in deliveries.parse_deliveries(topic, now, flat):
            if (consumer, item.fence, item.id) not in known:
                args += [item.sid, item.record.n, item.id]
        if len(args) > 4:
            scripts.run("release", topic, args)
        if not after:
            return


def _recovered(topic: str, ask: list[Any], since: float) -> list[Any]:
    """What came no earlier than the read that was lost, and a little for the way: older
    by each repeat, while the server is away."""
    until = time.monotonic() + conf.SEND_RETRY_S
    while True:
        age_ms = int((time.monotonic() - since) * 1000) + 50
        try:
            reply = scripts.run("recover", topic, [*ask, age_ms], retry_s=0)
            return list(reply)
        except errors.BusUnavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(_RETRY_S)
