"""Where to wait for tasks this process has just sent, so that nobody looks first.

Entry ids carry the server's clock: whatever ends a task comes behind the task's own
entry, in every stream of its topic.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_MOST: Final = 1_000

_sent: OrderedDict[str, tuple[str, str]] = OrderedDict()


def note(task_id: str, topic: str, sid: str) -> None:
    """Remember a task that was new to the topic as entry `sid`."""
    _sent[task_id] = (topic, sid)
    if len(_sent) > _MOST:
        _sent.popitem(last=False)


def take(task_id: str) -> tuple[str, str] | None:
    """Topic and entry id behind which to wait; known once, and only to the sender."""
    return _sent.pop(task_id, None)
