"""Runs the scripts of `verbs.py`, and repeats what had no answer.

Every script is idempotent by content, so a send without an answer may be repeated here,
with the same arguments.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
import redis.asyncio

from . import address, connection, errors, lines, patience, refusals, verbs, wire
from .conf import conf
from .verbs import Script, call


def run(
    name: str,
    topic: str,
    args: Sequence[Any] = (),
    more: Sequence[str] = (),
    *,
    client: Any = None,
    retry_s: float | None = None,
    known: bool = True,
    first: str = "",
    meanwhile: Callable[[], None] | None = None,
    failed: Exception | None = None,
) -> Any:
    """The script's reply; BusUnavailable or OutcomeUnknown after `retry_s` seconds.

    Where the topic may not be `known` yet, it is made known first: `ensure_topic`.
    `first` names a cheaper verb with the same arguments; where it says None, or gives
    no answer, the other one decides. `meanwhile` may be called while the server works,
    more than once, where no `client` is given; it raises nothing. `failed` is what a
    call of `once` with the same arguments came to, for this one to go on from.
    """
    script, tail = call(name, topic, args, more)
    pause, began = None, time.monotonic()
    while True:
        try:
            server: Any = connection.writer() if client is None else client
            if failed is not None:
                before, failed = failed, None
                raise before
            if not known and _known_topics.get((server.url, topic), 0.0) < began:
                ensure_topic(topic)
            if first:
                cheap, first = first, ""
                reply = _asked(server, *call(cheap, topic, args), meanwhile)
                if reply is not None:
                    return reply
            return _asked(server, script, tail, meanwhile)
        except (redis.RedisError, OSError) as exc:
            if refusals.is_misfit(exc):
                with refusals.guard():
                    found = [server.execute_command(*q) for q in kinds(script, tail)]
                raise refusals.misfit(script.names, tail[1:], found) from exc
            if pause is None:
                pause = patience.Pause(
                    not script.reads, retry_s, brief=script.reads, began=began
                )
            time.sleep(pause.after(exc))


def once(name: str, topic: str, args: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
    """A script's reply over the common connections, by the shortest way there is.

    `args`, which come before the `others`, are the same for many calls: they are put
    into the words of the protocol once. False where it was not run, since the server
    may not know the topic or the script, which `run` tells it; what goes wrong is
    raised as it comes.
    """
    server = connection.writer()
    if _known_topics.get((server.url, topic), 0.0) < time.monotonic():
        return False
    try:
        opening = _opening(name, topic, args, len(others))
        return server.execute_packed(opening + lines.rest(others))
    except redis.exceptions.NoScriptError:
        return False


def sent(
    client: wire.Wire,
    name: str,
    topic: str,
    args: tuple[Any, ...],
    others: tuple[Any, ...],
) -> asyncio.Future[Any] | None:
    """Send a script over a wire in this very step, by the way of `once`.

    Its answer to come, or None where there is no connection to send it over now.
    """
    if client.introduce(name):
        # The server may be new as well: it knows no script that it was not sent whole.
        script, tail = call(name, topic, args + others)
        return client.send_packed(lines.opening(("EVAL", script.text, *tail), 0))
    opening = _opening(name, topic, args, len(others))
    return client.send_packed(opening + lines.rest(others))


@functools.lru_cache(maxsize=1_024)
def _opening(name: str, topic: str, args: tuple[Any, ...], more: int) -> bytes:
    return lines.opening(verbs.command(name, topic, args), more)


Call = tuple[str, str, Sequence[Any], Sequence[str]]  # name, topic, args, more


def _asked(
    server: Any,
    script: Script,
    tail: list[Any],
    meanwhile: Callable[[], None] | None = None,
) -> Any:
    beside = {} if meanwhile is None else {"meanwhile": meanwhile}
    try:
        return server.execute_command("EVALSHA", script.sha, *tail, **beside)
    except redis.exceptions.NoScriptError:
        return server.execute_command("EVAL", script.text, *tail)


async def arun(
    name: str,
    topic: str,
    args: Sequence[Any] = (),
    more: Sequence[str] = (),
    *,
    client: Any = None,
    retry_s: float | None = None,
    first: str = "",
) -> Any:
    """`run` for asyncio."""
    script, tail = call(name, topic, args, more)
    pause, began = None, time.monotonic()
    while True:
        try:
            server: Any = connection.awriter() if client is None else client
            if first:
                cheap, first = first, ""
                reply = await _aasked(server, *call(cheap, topic, args))
                if reply is not None:
                    return reply
            return await _aasked(server, script, tail)
        except (redis.RedisError, OSError) as exc:
            if refusals.is_misfit(exc):
                with refusals.guard():
                    found = [
                        await server.execute_command(*q) for q in kinds(script, tail)
                    ]
                raise refusals.misfit(script.names, tail[1:], found) from exc
            if pause is None:
                pause = patience.Pause(
                    not script.reads, retry_s, brief=script.reads, began=began
                )
            pause_s = pause.after(exc)
            if client is None and refusals.is_elsewhere(exc):
                # A wire and a line see to this themselves.
                await connection.amove(connection.awriter())
            await asyncio.sleep(pause_s)


def kinds(script: Script, tail: list[Any]) -> list[tuple[str, str]]:
    """What to ask to find out which key of a call is of a wrong type."""
    return [("TYPE", key) for key in tail[1 : 1 + len(script.names)]]


async def _aasked(server: Any, script: Script, tail: list[Any]) -> Any:
    try:
        return await server.execute_command("EVALSHA", script.sha, *tail)
    except redis.exceptions.NoScriptError:
        return await server.execute_command("EVAL", script.text, *tail)


# Until when a topic counts as known; somebody may delete it in the meantime.
_known_topics: dict[tuple[str, str], float] = {}
_KNOWN_FOR_S: Final = 5.0


def ensure_topic(topic: str, *, agent: bool = False) -> None:
    """Make the topic known before this process's first send; TooManyTopics if full.

    For an `agent` this goes through at maxmemory as well: it is there to free some.
    """
    known = (address.redis_url(), topic)
    if _known_topics.get(known, 0.0) < time.monotonic():
        _registered(topic, run("add_topic", "", _topic_args(topic, agent)))
        _known_topics[known] = time.monotonic() + _KNOWN_FOR_S


async def aensure_topic(topic: str, *, agent: bool = False) -> None:
    """`ensure_topic` for asyncio."""
    known = (address.redis_url(), topic)
    if _known_topics.get(known, 0.0) < time.monotonic():
        _registered(topic, await arun("add_topic", "", _topic_args(topic, agent)))
        _known_topics[known] = time.monotonic() + _KNOWN_FOR_S


def _topic_args(topic: str, agent: bool) -> list[Any]:
    return [topic, conf.TOPICS_MAX, "1" if agent else "0"]


def _registered(topic: str, reply: int) -> None:
    if not reply:
        raise errors.TooManyTopics(
            f"topic {topic!r} is new and the mesh already knows {conf.TOPICS_MAX:,}; "
            "delete topics or raise MESH_TOPICS_MAX"
        )


def forget_topics(topic: str | None = None) -> None:
    """Ask again for a topic that was deleted, or for every one, after a flush."""
    if topic is None:
        _known_topics.clear()
    else:
        _known_topics.pop((address.redis_url(), topic), None)
