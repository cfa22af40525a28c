"""Where to wait for tasks this process has just sent, so that nobody looks first.

Entry ids carry the server's clock: whatever ends a task comes behind the task's own
entry, in every stream of its topic. Within its millisecond it comes behind whatever was
read there before the task was sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

_MOST: Final = 1_000


class Sent(NamedTuple):
    """A task of ours: entry `sid` of its topic, and what had been `seen` before."""

    topic: str
    sid: str
    seen: Sequence[str]


_sent: OrderedDict[str, Sent] = OrderedDict()
_seen: OrderedDict[str, Sequence[str]] = OrderedDict()


def see(topic: str, cursors: Sequence[str]) -> None:
    """Remember up to where the streams of a topic were read."""
    _seen[topic] = tuple(cursors)
    if len(_seen) > _MOST:
        _seen.popitem(last=False)


def seen(topic: str) -> Sequence[str]:
    """Up to where they were read lately; ask before you send. Empty if never."""
    return _seen.get(topic, ())


def note(task_id: str, topic: str, sid: str, before: Sequence[str] = ()) -> None:
    """Remember a task that was new to the topic as entry `sid`; `seen` as of then."""
    _sent[task_id] = Sent(topic, sid, before)
    if len(_sent) > _MOST:
        _sent.popitem(last=False)


def take(task_id: str) -> Sent | None:
    """Behind what to wait for it; known once, and only to the sender."""
    return _sent.pop(task_id, None)
