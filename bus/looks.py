"""What a janitor asks of its topics, in as few trips as it can.

To be woken costs the server more than what it is woken for. While it answers one trip
it serves nobody else, so that not all topics are asked in one either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import scripts, verbs, volley

_TOGETHER: Final = 8  # topics a trip
_AT_ONCE: Final = 100  # tasks that one call promotes


@dataclass(frozen=True, slots=True)
class Look:
    """What one topic answered; an error of the server may be either reply."""

    topic: str
    promoted: Any
    holding: Any = None  # where nobody asked

    def due_s(self) -> float:
        """Seconds until its next task is due, if any, with what is due promoted."""
        if isinstance(self.promoted, Exception) or self.promoted[0] == _AT_ONCE:
            return promote(self.topic)  # also tells errors as ours, and of what
        return _due_s(self.promoted[1])


def look(topics: Sequence[str], *, tidy: bool | None) -> Iterator[Look]:
    """Each of these topics, with its due tasks moved into the stream.

    `tidy` asks for all its consumers, or if False for those alone that hold something;
    None for neither. BusUnavailable without a server.
    """
    for at in range(0, len(topics), _TOGETHER):
        some = topics[at : at + _TOGETHER]
        commands = [verbs.command("promote", topic, [_AT_ONCE]) for topic in some]
        if tidy is None:
            yield from map(Look, some, volley.tried(commands))
            continue
        args = ["1" if tidy else "0"]
        commands += [verbs.command("holding", topic, args) for topic in some]
        replies = volley.tried(commands)
        yield from map(Look, some, replies[: len(some)], replies[len(some) :])


def promote(topic: str) -> float:
    """Move what is due into the stream; seconds until the next one is due, if any."""
    while True:
        moved, next_ms = scripts.run("promote", topic, [_AT_ONCE], retry_s=0)
        if moved < _AT_ONCE:
            return _due_s(next_ms)


def _due_s(next_ms: int) -> float:
    return math.inf if next_ms < 0 else max(next_ms, 1) / 1000
