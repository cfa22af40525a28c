"""Scripts whose callers wait until what they wrote is as durable as they want.

All scripts of a call go over one connection, then comes one WAIT: it covers what this
connection has written, and with it everything before. When the connection breaks, all
are sent again, for another server may have taken over without the first ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
import redis.asyncio

from . import connection, errors, patience, refusals, scripts, verbs
from .conf import conf
from .levels import Level

Reply = Any  # of a script, or the error with which it was refused whole


class _Round:
    """What is sent, in which order, and what the answers mean."""

    def __init__(
        self, name: str, calls: Sequence[tuple[str, list[Any]]], level: Level
    ) -> None:
        self.level = level
        self.script = verbs.SCRIPTS[name]
        self.tails = [verbs.call(name, *each)[1] for each in calls]
        self.pause = patience.Pause(not self.script.reads)

    def ran(self, reply: Reply) -> Reply:
        """Take note of a script that ran: from here on no error means nothing was."""
        if not isinstance(reply, errors.BusError):
            said = f"what was written may be less durable than {str(self.level)!r}"
            self.pause.unknown = errors.OutcomeUnknown(said)
        return reply

    def ask(self) -> tuple[Any, ...]:
        """The wait for the level."""
        return self.level.command(conf.DURABILITY_TIMEOUT_S)

    def short(self, reply: Any) -> errors.LevelNotReached | None:
        """The error of a wait that was in vain."""
        if self.level.reached(reply):
            return None
        return errors.LevelNotReached(
            f"written, but durability {str(self.level)!r} was not reached within "
            f"{conf.DURABILITY_TIMEOUT_S:g} s: repeat it with the same task id"
        )


_WHOLE = (errors.BusUnavailable, refusals.DamagedKey)


def refused(exc: redis.ResponseError) -> errors.BusError:
    """The error of a script that was refused whole, or raises what is no such thing."""
    error = refusals.mapped(exc)
    if refusals.is_passing(exc) or not isinstance(error, _WHOLE):
        raise exc
    return error


def run_all(
    name: str,
    calls: Sequence[tuple[str, list[Any]]],
    level: Level,
    wrote: Callable[[Any], bool],
) -> tuple[list[Reply], errors.LevelNotReached | None]:
    """Run a script per topic and arguments of `calls`, then wait for `level` once.

    Replies in order, a BusUnavailable or DamagedKey among them where one was refused
    whole; and the error for all that `wrote` says were no refusals, if the level was
    not reached.
    OutcomeUnknown or BusUnavailable where the server could not be asked to the end.
    """
    work = _Round(name, calls, level)
    while True:
        try:
            with connection.settler().line() as line:
                tails, script = work.tails, work.script
                replies = [work.ran(_one(line, script, tail)) for tail in tails]
                if not _any_wrote(replies, wrote):
                    return replies, None
                return replies, work.short(line.call(work.ask()))
        except (redis.RedisError, OSError) as exc:
            time.sleep(work.pause.after(exc))


def _one(line: Any, script: verbs.Script, tail: list[Any]) -> Reply:
    try:
        try:
            return line.call(("EVALSHA", script.sha, *tail))
        except redis.exceptions.NoScriptError:
            return line.call(("EVAL", script.text, *tail))
    except redis.ResponseError as exc:
        if not refusals.is_misfit(exc):
            return refused(exc)
        kinds = [line.call(ask) for ask in scripts.kinds(script, tail)]
        return refusals.misfit(script.names, tail[1:], kinds)


def _any_wrote(replies: list[Reply], wrote: Callable[[Any], bool]) -> bool:
    return any(not isinstance(x, errors.BusError) and wrote(x) for x in replies)


async def arun_all(
    name: str,
    calls: Sequence[tuple[str, list[Any]]],
    level: Level,
    wrote: Callable[[Any], bool],
) -> tuple[list[Reply], errors.LevelNotReached | None]:
    """`run_all` for asyncio; it holds a connection while it waits, but no thread."""
    work = _Round(name, calls, level)
    while True:
        try:
            async with connection.asettler().client() as line:
                tails, script = work.tails, work.script
                replies = [work.ran(await _aone(line, script, tail)) for tail in tails]
                if not _any_wrote(replies, wrote):
                    return replies, None
                client: Any = line
                return replies, work.short(await client.execute_command(*work.ask()))
        except (redis.RedisError, OSError) as exc:
            pause_s = work.pause.after(exc)
            if refusals.is_elsewhere(exc):
                await connection.amove(connection.asettler())
            await asyncio.sleep(pause_s)


async def _aone(
    line: redis.asyncio.Redis, script: verbs.Script, tail: list[Any]
) -> Reply:
    client: Any = line
    try:
        try:
            return await client.execute_command("EVALSHA", script.sha, *tail)
        except redis.exceptions.NoScriptError:
            return await client.execute_command("EVAL", script.text, *tail)
    except redis.ResponseError as exc:
        if not refusals.is_misfit(exc):
            return refused(exc)
        asked = scripts.kinds(script, tail)
        kinds = [await client.execute_command(*each) for each in asked]
        return refusals.misfit(script.names, tail[1:], kinds)
