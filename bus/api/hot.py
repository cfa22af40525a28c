"""The hot calls of the express lane: what is read of them, sent, and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from rest_framework.exceptions import Throttled

from bus import accounts, databases, errors, levels, roles, tasks, together

from . import calls, exceptions, jsontext, lending, parsing, throttles, waiting
from .calls import Answer
from .head import BODY_MOST, Head
from .problems import Problem

T = TypeVar("T")

_THREADS: Final = 32  # each holds a connection to Redis for the time of a script
_CALLS_MOST: Final = 1_000  # that have a thread, or wait for one


class Asked(NamedTuple):
    """A call of somebody who was let in; `name` is what its path holds, if anything."""

    who: roles.Principal
    head: Head
    body: bytes
    name: str
    receive: Callable[[], Awaitable[dict[str, Any]]]

    def value(self, *, needed: bool = True, each: str = "") -> Any:
        """The JSON body; without one `{}`, or a problem where it is needed."""
        if not self.body:
            if needed:
                raise Problem("unreadable", parsing.NO_BODY)
            return {}
        head = self.head
        return jsontext.document(
            self.body,
            head.content_type,
            head.content_encoding,
            limit=BODY_MOST,
            each=each,
        )


async def throttle(who: roles.Principal) -> None:
    """Take a call from the bucket; Throttled, or BusUnavailable if nobody can tell."""
    try:
        wait_s = await together.atake_one(*throttles.bucket_of(who, hot=True))
    except errors.OutcomeUnknown as exc:
        # Perhaps a token is gone; of the call itself nothing was written yet.
        raise errors.BusUnavailable(str(exc)) from exc
    if wait_s:
        raise Throttled(wait_s)


async def enqueue(asked: Asked) -> Answer:
    """`POST enqueue`."""
    sent = calls.enqueue(asked.who, asked.value(), asked.head.key)
    level = await levels.agranted(sent.durability)
    outcome, means = await together.aaccept_one(sent.topic, sent.wanted, level)
    return calls.enqueued(sent.topic, outcome, means)


async def batch(asked: Asked) -> Answer:
    """`POST enqueue/batch`."""
    sent = calls.Batch(asked.who, asked.value(each=parsing.EACH), asked.head.key)
    for wanted, each in sent.levels():
        try:
            means = str(await levels.agranted(wanted)) or await tasks.adurability()
            outcomes = await tasks.aaccept_each(each, wanted)
        except errors.BusError as exc:
            sent.refuse(wanted, exc)
        else:
            sent.settle(wanted, outcomes, means)
    return sent.answer()


async def beat(asked: Asked) -> Answer:
    """`POST agents/{id}/heartbeat`."""
    value = asked.value(needed=False)
    return Answer(200, await _threads.run(lending.beat, asked.who, asked.name, value))


async def complete(asked: Asked) -> Answer:
    """`POST deliveries/complete`."""
    return await _ended(lending.complete, asked)


async def fail(asked: Asked) -> Answer:
    """`POST deliveries/fail`."""
    return await _ended(lending.fail, asked)


async def extend(asked: Asked) -> Answer:
    """`POST deliveries/extend`."""
    return await _ended(lending.extend, asked)


async def release(asked: Asked) -> Answer:
    """`POST deliveries/release`."""
    return await _ended(lending.release, asked)


async def _ended(
    verb: Callable[[roles.Principal, Any], dict[str, Any]], asked: Asked
) -> Answer:
    return Answer(200, await _threads.run(verb, asked.who, asked.value()))


async def claim(asked: Asked) -> Answer | None:
    """`POST topics/{topic}/claim`; None where the client went while it waited."""
    value = asked.value()
    wait_s = lending.wait_of(value)

    async def look() -> dict[str, Any]:
        # A wait may be longer than a token lasts.
        try:
            now = await accounts.aprincipal_of(asked.head.token)
        except databases.AWAY as exc:
            # The looks before this one have lent nothing.
            raise exceptions.database_away(exc, "not_written") from exc
        if now != asked.who:
            said, bearer = "Invalid token.", {"WWW-Authenticate": "Bearer"}
            raise Problem("invalid_token", said, bearer)
        return await _threads.run(lending.claim, asked.who, asked.name, value)

    told = await waiting.patiently(
        asked.name, wait_s, look, lending.is_empty, asked.receive
    )
    return None if told is None else Answer(200, told)


class _Threads:
    """Threads for calls that hold one while Redis answers; so many and no more wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "mesh-lane")
        self._calls = 0

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """What the call says; BusUnavailable if too many are under way."""
        if self._calls >= _CALLS_MOST:
            raise together.overloaded()
        self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, call, *args)
        finally:
            self._calls -= 1


_threads: Final = _Threads()
