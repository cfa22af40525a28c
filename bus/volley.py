"""Many reading commands that leave together, in one round trip."""

from __future__ import annotations

import time
from typing import Any, Final

import redis

from . import connection, patience, refusals

# A connection that broke is made anew; a server that is away is told.
_AGAIN_S: Final = 1.0


def ask(commands: list[tuple[Any, ...]]) -> list[Any]:
    """The replies in order; the first that is an error is raised as ours."""
    replies = tried(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise refusals.mapped(reply) from reply
    return replies


def tried(commands: list[tuple[Any, ...]]) -> list[Any]:
    """The replies in order, errors of the server among them; BusUnavailable.

    Pages ask hundreds at once: a pipeline of redis-py computes for 60 us per command,
    a line for 5.
    """
    pause = patience.Pause(False, _AGAIN_S, brief=True)
    while True:
        try:
            return connection.writer().execute_all(commands)
        except (redis.RedisError, OSError) as exc:
            time.sleep(pause.after(exc))
