"""For the tests of code that enqueues or handles tasks: no server, no agent.

with testing.collect() as sent:
    signup(user)
testing.assert_enqueued(sent, "mail", {"to": user.email})
assert testing.run_inline("mail", {"to": "a@b.c"}) == {"sent": True}
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async

from . import accepting, committed, errors, handlers, levels, messages
from .batches import Accepted, Batch
from .conf import conf
from .handlers import Handler
from .levels import Level
from .messages import Task
from .wanted import Item, new_id

_ANY: Any = object()
Outcomes = list[list[Accepted]]


@dataclass(frozen=True, slots=True)
class Sent:
    """One task that would have been sent."""

    id: str
    topic: str
    payload: Any
    delayed: bool


@contextlib.contextmanager
def collect() -> Iterator[list[Sent]]:
    """Collect what is enqueued inside instead of sending it; checks are as strict."""
    sent: list[Sent] = []

    def take(batch: Batch) -> list[Accepted]:
        known = {item.id: item.payload for item in sent if item.topic == batch.topic}
        outcomes = []
        for item in batch.items:
            # The value an agent would get, after its way through JSON.
            payload = messages.decode(item.json)
            delayed = item.due not in ("", "+0")  # less than a millisecond is none
            state = messages.DELAYED if delayed else messages.WAITING
            new, error = item.id not in known, None
            if new:
                sent.append(Sent(item.id, batch.topic, payload, delayed))
                known[item.id] = payload
            elif not messages.same(known[item.id], payload):
                error = errors.TaskConflict(f"task id {item.id} is taken")
            outcomes.append(Accepted(item.id, state, new, error))
        return outcomes

    def take_all(
        batches: Sequence[Batch], level: Level, meanwhile: Any = None
    ) -> Outcomes:
        return [take(batch) for batch in batches]

    def take_one(topic: str, task_id: str, text: bytes) -> None:
        take(Batch(topic, [Item(task_id, "", "", text)]))

    async def atake_all(
        batches: Sequence[Batch], level: Level, *, client: Any = None
    ) -> Outcomes:
        return [take(batch) for batch in batches]

    def granted(wanted: str | None = None) -> Level:
        return levels.BY_ITSELF if wanted is None else levels.parse(wanted)

    async def agranted(wanted: str | None = None) -> Level:
        return granted(wanted)

    before = accepting.send, accepting.asend, accepting.send_one
    were = levels.granted, levels.agranted
    accepting.send, accepting.asend, accepting.send_one = take_all, atake_all, take_one
    levels.granted, levels.agranted = granted, agranted
    try:
        yield sent
    finally:
        accepting.send, accepting.asend, accepting.send_one = before
        levels.granted, levels.agranted = were


def assert_enqueued(
    sent: list[Sent], topic: str, payload: Any = _ANY, *, count: int | None = None
) -> None:
    """At least one such task was sent, or exactly `count`."""
    fitting = [
        item
        for item in sent
        if item.topic == topic and (payload is _ANY or item.payload == payload)
    ]
    wanted = bool(fitting) if count is None else len(fitting) == count
    if not wanted:
        what = topic if payload is _ANY else f"{topic} with {payload!r}"
        seen = "".join(f"\n  {item.topic}: {item.payload!r}" for item in sent)
        number = "at least 1" if count is None else str(count)
        held = "".join(f"\n  {hook}" for hook in committed.waiting())
        raise AssertionError(
            f"expected {number} task of {what}, found {len(fitting)}; sent:"
            f"{seen or ' nothing'}"
            + (f"\nnot sent, but waiting for a commit:{held}" if held else "")
        )


def run_inline(topic: str, payload: Any, *, attempt: int = 1) -> Any:
    """Run the topic's handler here; its value after JSON, or what it raised.

    An async handler as well; its calls of Django's ORM are in the test's transaction.
    A test that is async itself awaits `arun_inline`.
    """
    found, value, task = _given(topic, payload, attempt)
    run = async_to_sync(found.function) if found.is_async else found.function
    return _returned(run(value, task))


async def arun_inline(topic: str, payload: Any, *, attempt: int = 1) -> Any:
    """`run_inline` for async tests; a sync handler runs where async ORM calls do."""
    found, value, task = _given(topic, payload, attempt)
    run = found.function if found.is_async else sync_to_async(found.function)
    return _returned(await run(value, task))


def _given(topic: str, payload: Any, attempt: int) -> tuple[Handler, Any, Task]:
    """The handler of a topic, and what an agent would call it with."""
    if topic not in handlers.registry:
        handlers.autodiscover()
    found = handlers.registry.get(topic)
    if found is None:
        raise errors.HandlerError(f"no handler serves topic {topic!r}")
    value = messages.decode(messages.encode(payload))
    task = Task(
        new_id(),
        topic,
        value,
        attempt=attempt,
        fence="0-1.0",
        timeout_s=handlers.timeout_of(found, None, None),
        enqueued_at=messages.iso(round(time.time() * 1000)),
    )
    return found, value, task


def _returned(result: Any) -> Any:
    return messages.decode(messages.encode_result(result, conf.RESULT_MAX_BYTES))
