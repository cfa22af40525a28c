"""Many reading commands that leave together, in one round trip."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import redis

from . import connection, patience, refusals, verbs

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
    if not commands:
        return []
    pause = patience.Pause(False, _AGAIN_S, brief=True)
    while True:
        try:
            return connection.writer().execute_all(commands)
        except (redis.RedisError, OSError) as exc:
            time.sleep(pause.after(exc))


def run(name: str, topics: Sequence[str], args: Sequence[Any] = ()) -> list[Any]:
    """The replies of one reading script for each of these topics, in their order.

    Errors of the server are among them: whoever runs the script alone for such a topic
    gets them as ours, with the key they are about.
    """
    if not topics:
        return []
    commands = [verbs.command(name, topic, args) for topic in topics]
    replies = tried(commands)
    if any(isinstance(each, redis.exceptions.NoScriptError) for each in replies):
        # The first one brings the text, so the others find it.
        script, tail = verbs.call(name, topics[0], args)
        replies = tried([("EVAL", script.text, *tail), *commands[1:]])
    return replies


def pairs(reply: dict[str, str] | list[str]) -> dict[str, str]:
    """A hash as a dict: it comes as one, or where a URL asks for the older protocol
    as names and values in turn."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))
