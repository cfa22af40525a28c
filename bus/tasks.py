"""Tasks as their senders see them: enqueue them, cancel them.

Every function has an asyncio twin with the prefix `a`. Redis trouble leaves as
BusUnavailable (nothing written) or OutcomeUnknown (repeat it with the same id).
"""

from __future__ import annotations

from typing import Any, Final

from . import (
    accepting,
    committed,
    errors,
    keys,
    levels,
    lookup,
    messages,
    scripts,
    wanted,
)
from .accepting import aaccept, aaccept_each, accept, accept_each
from .batches import BATCH, Accepted, Batch
from .conf import conf
from .wanted import Wanted, new_id

__all__ = [
    "BATCH",
    "Accepted",
    "Wanted",
    "aaccept",
    "aaccept_each",
    "accept",
    "accept_each",
    "adurability",
    "aenqueue_task",
    "cancel",
    "durability",
    "enqueue_task",
    "new_id",
]


_NO_WORDS: Final = (None,) * 6


def enqueue_task(
    topic: str,
    payload: Any,
    maxlen: int | None = None,
    *,
    task_id: str | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    idempotency_key: str | None = None,
    principal: str = "",
    durability: str | None = None,
    on_commit: bool | str = False,
) -> str:
    """Accept one task; its id.

    `payload` is any JSON value up to 256 KiB. `maxlen` bounds the backlog for this call
    (`None`: the topic's limit); at the bound TopicFull is raised, nothing is trimmed.
    `delay_s` starts it later (server clock). The same `task_id` with the same payload
    is the same task; with another one TaskConflict. So is an `idempotency_key`, which
    becomes the id (of this `principal`, if keys of several may meet) and is remembered
    for a day or more, also when the result is trimmed.
    It returns once the task is as durable as `durability` says: `memory`, `aof`,
    `fsync`, `replicated:k`; None: MESH_DURABILITY, else what the server does by itself.
    One that the server cannot give is InvalidOption, one that is not reached in time
    LevelNotReached: repeat it with the id in its `task_ids`.
    `on_commit` waits for the open database transaction, so that an agent never sees a
    task before its rows: True for that of `default`, else of the one database that has
    one (InvalidOption if several have), a text for that of the database it names. What
    the mesh refuses then comes out of the commit, with a note on each, and the other
    tasks of the transaction are sent all the same; while Redis is away all of them
    share the time of one, and `facts["unsent"]` has the ids of those left behind.
    """
    level = levels.granted(durability)
    keys.check_topic(topic)
    text = messages.encode(payload)
    words = (maxlen, task_id, delay_s, max_attempts, timeout_s, idempotency_key)
    if words == _NO_WORDS and not (on_commit or level.waits):
        task_id = new_id()
        accepting.send_one(topic, task_id, text)
        return task_id
    item = wanted.item(
        topic,
        text,
        task_id=task_id,
        idempotency_key=idempotency_key,
        principal=principal,
        delay_s=delay_s,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
    )
    batch = Batch(topic, [item], maxlen)
    if on_commit:
        committed.after_commit(batch, level, on_commit)
    else:
        [outcomes] = accepting.send([batch], level)
        accepting.taken(topic, outcomes)
    return item.id


async def aenqueue_task(
    topic: str,
    payload: Any,
    maxlen: int | None = None,
    *,
    task_id: str | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    idempotency_key: str | None = None,
    principal: str = "",
    durability: str | None = None,
) -> str:
    """`enqueue_task` for asyncio, without `on_commit`; it holds no thread."""
    level = await levels.agranted(durability)
    keys.check_topic(topic)
    item = wanted.item(
        topic,
        messages.encode(payload),
        task_id=task_id,
        idempotency_key=idempotency_key,
        principal=principal,
        delay_s=delay_s,
        max_attempts=max_attempts,
        timeout_s=timeout_s,
    )
    batch = Batch(topic, [item], maxlen)
    [outcomes] = await accepting.asend([batch], level)
    accepting.taken(topic, outcomes)
    return item.id


def durability() -> str:
    """What an acknowledgement means here where the sender does not say.

    MESH_DURABILITY if set; else `aof` (it is in the append-only file, which is synced
    every second or more often) or `memory` (a server that ends takes it along), asked
    for at most every 5 s.
    """
    return str(levels.of_mesh() or levels.level())


async def adurability() -> str:
    """`durability` for asyncio."""
    return str(levels.of_mesh() or await levels.alevel())


def cancel(task_id: str, topic: str | None = None) -> str:
    """Cancel a task: `cancelled`, or `running` where its agent is told to stop it.

    A completion that arrives before the agent stops still wins. Without `topic` all are
    asked: SeveralTopics where it can be cancelled in more than one, or was.
    TaskNotFound if none knows it, NotCancellable if the task has ended.
    """
    topic = lookup.one_topic(task_id, topic, lookup.TO_CANCEL)
    task_id = keys.check_task_id(task_id)
    args = [topic, task_id, conf.RESULTS_KEEP]
    state = str(scripts.run("cancel", topic, args))
    if state == "unknown":
        raise errors.TaskNotFound(f"no task {task_id} in topic {topic!r}")
    if state == messages.DONE:
        # Cancelled and discarded tasks have rows as well; a repeat is a success.
        found = lookup.found(topic, task_id)
        state = found.state if found is not None else state
    if state in messages.ENDED and state != messages.CANCELLED:
        raise errors.NotCancellable(f"task {task_id} has ended: {state}")
    return state
