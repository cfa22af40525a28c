"""The hot calls of the express lane: what is read of them, sent, and answered."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from rest_framework.exceptions import Throttled

from bus import errors, levels, roles, tasks, together

from . import calls, jsontext, lending, parsing, throttles
from .calls import Answer
from .head import Head
from .parsers import body_limit
from .problems import Problem


class Asked(NamedTuple):
    """A call of somebody who was let in; `name` is what its path holds, if anything."""

    who: roles.Principal
    head: Head
    body: bytes
    name: str

    def value(self, *, needed: bool = True, batch: bool = False) -> Any:
        """The JSON body; without one `{}`, or a problem where it is needed."""
        if not self.body:
            if needed:
                raise Problem("unreadable", parsing.NO_BODY)
            return {}
        head = self.head
        return jsontext.document(
            self.body, head.content_type, head.content_encoding, limit=body_limit(batch)
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
    sent = calls.Batch(asked.who, asked.value(batch=True), asked.head.key)
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
    told = await asyncio.to_thread(lending.beat, asked.who, asked.name, value)
    return Answer(200, told)
