"""Tasks as their senders see them: enqueue them, cancel them.

Every function has an asyncio twin with the prefix `a`. Redis trouble leaves as
BusUnavailable (nothing written) or OutcomeUnknown (repeat it with the same id).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import errors, keys, lookup, messages, scripts
from .conf import conf

BATCH: Final = 100  # tasks per script call: a script stays far below 5 ms
ATTEMPTS_MOST: Final = 1_000


def new_id() -> str:
    """A UUID of version 7: sorts by time, chosen before the first send."""
    ms = time.time_ns() // 1_000_000
    tail = os.urandom(10)
    value = (ms << 80) | (int.from_bytes(tail, "big"))
    value &= ~(0xF << 76) & ~(0x3 << 62)
    value |= (0x7 << 76) | (0x2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an enqueue came to: the state on acceptance, `new` unless a repeat."""

    id: str
    state: str
    new: bool


def enqueue_task(
    topic: str,
    payload: Any,
    maxlen: int | None = None,
    *,
    task_id: str | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    on_commit: bool = False,
) -> str:
    """Accept one task; its id.

    `payload` is any JSON value up to 256 KiB. `maxlen` bounds the backlog for this call
    (`None`: the topic's limit); at the bound TopicFull is raised, nothing is trimmed.
    `delay_s` starts it later (server clock). The same `task_id` with the same payload
    is the same task; with another one TaskConflict. `on_commit` waits for the open
    database transaction, so that an agent never sees a task before its rows.
    """
    options = _options(max_attempts, timeout_s)
    item = (_chosen(task_id), payload, _due(delay_s), options)
    batch = Batch(topic, maxlen, [item])
    if on_commit:
        _after_commit(lambda: send(batch))
    else:
        send(batch)
    return batch.ids[0]


async def aenqueue_task(
    topic: str,
    payload: Any,
    maxlen: int | None = None,
    *,
    task_id: str | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
) -> str:
    """`enqueue_task` for asyncio."""
    options = _options(max_attempts, timeout_s)
    item = (_chosen(task_id), payload, _due(delay_s), options)
    batch = Batch(topic, maxlen, [item])
    await asend(batch)
    return batch.ids[0]


def _chosen(task_id: str | None) -> str:
    """The task's id, ours chosen before the first send."""
    return new_id() if task_id is None else keys.check_task_id(task_id)


def enqueue_many(
    topic: str,
    payloads: Iterable[Any],
    maxlen: int | None = None,
    *,
    task_ids: Iterable[str] | None = None,
    delay_s: float | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
) -> list[str]:
    """Accept many tasks, 100 per round trip; their ids in order.

    At a bound TopicFull carries the ids that were `accepted`; InvalidPayload names the
    payload by its index, is raised before its hundred is sent, and has the ids of the
    hundreds before in `facts["accepted"]`.
    """
    if isinstance(payloads, (str, bytes, dict)):
        raise errors.InvalidOption(
            f"payloads is one {type(payloads).__name__}; give a list of payloads"
        )
    due, options = _due(delay_s), _options(max_attempts, timeout_s)
    ids = iter(new_id, "") if task_ids is None else map(keys.check_task_id, task_ids)
    source = ((_next(ids), payload, due, options) for payload in payloads)
    accepted: list[str] = []
    while chunk := list(itertools.islice(source, BATCH)):
        try:
            batch = Batch(topic, maxlen, chunk, len(accepted))
        except errors.InvalidPayload as exc:
            exc.facts["accepted"] = accepted
            raise
        try:
            accepted.extend(item.id for item in send(batch))
        except errors.TopicFull as full:
            accepted.extend(full.accepted)
            raise errors.TopicFull(
                str(full), retry_after_s=full.retry_after_s, accepted=accepted
            ) from None
    return accepted


class Batch:
    """Up to 100 tasks on their way: the script's arguments and what its reply means."""

    def __init__(
        self,
        topic: str,
        maxlen: int | None,
        items: Sequence[tuple[str, Any, str, str]],
        first: int | None = None,
    ) -> None:
        self.topic = keys.check_topic(topic)
        whole = isinstance(maxlen, int) and not isinstance(maxlen, bool)
        if maxlen is not None and not (whole and maxlen >= 1):
            raise errors.InvalidOption(f"maxlen {maxlen!r} is not a positive number")
        self.ids = [item[0] for item in items]
        self.payloads = [item[1] for item in items]
        self.args: list[Any] = [
            conf.BACKLOG_MAX,
            conf.DEAD_MAX,
            "" if maxlen is None else maxlen,
        ]
        for number, (task_id, payload, due, options) in enumerate(items):
            try:
                self.args += (task_id, due, options, messages.encode(payload))
            except errors.InvalidPayload as exc:
                if first is not None:
                    exc.args = (f"payloads[{first + number}]: {exc}",)
                raise

    def accepted(
        self, raw: list[Any], ended_payload: Callable[[str, str, int, str], Any]
    ) -> list[Accepted]:
        """One Accepted per task; TaskConflict or TopicFull if one is not."""
        out: list[Accepted] = []
        full = 0
        for index, (task_id, code) in enumerate(zip(self.ids, raw, strict=True)):
            if code == 1:
                out.append(Accepted(task_id, messages.WAITING, True))
            elif code == 2:
                out.append(Accepted(task_id, messages.DELAYED, True))
            elif code == 0:
                full += 1
            else:
                self._same(index, code, ended_payload)
                state = {5: messages.DONE, 6: messages.DEAD}
                kind = code if isinstance(code, int) else code[0]
                out.append(Accepted(task_id, state.get(kind, messages.WAITING), False))
        if full:
            raise errors.TopicFull(
                f"topic {self.topic!r} is full: {full} of {len(raw)} tasks refused; "
                "let agents work the backlog down, handle its dead letters, or raise "
                "the limit",
                accepted=[item.id for item in out],
            )
        return out

    def _same(
        self, index: int, code: Any, ended_payload: Callable[[str, str, int, str], Any]
    ) -> None:
        """TaskConflict unless the known task carries this payload (as a value)."""
        if code == 3:
            return
        kind, detail = code
        mine = messages.decode(messages.encode(self.payloads[index]))
        if kind == 4:
            theirs = messages.decode(detail)
        else:
            theirs = ended_payload(self.topic, self.ids[index], kind, detail)
        if theirs is not _TRIMMED and not messages.same(theirs, mine):
            raise errors.TaskConflict(
                f"task id {self.ids[index]} is taken by a task with another payload"
            )


_TRIMMED: Final = object()


def _ended_payload(topic: str, task_id: str, kind: int, detail: str) -> Any:
    """The payload of a finished task; a marker where its row is trimmed."""
    found = lookup.found(topic, task_id)
    if found is None or not (found.fence or found.enqueued_at):
        return _TRIMMED  # done without a row: acked by hand, or trimmed
    if found.error and found.error.get("reason") == "moved":
        return _TRIMMED  # its agent chose what to put into the letter
    return found.payload


def send(batch: Batch) -> list[Accepted]:
    """The one way tasks leave for the server (`bus.testing` takes its place)."""
    scripts.ensure_topic(batch.topic)
    raw = scripts.run("enqueue", batch.topic, batch.args)
    return batch.accepted(raw, _ended_payload)


async def asend(batch: Batch) -> list[Accepted]:
    """`send` for asyncio; comparing with an ended task is left to a thread."""
    await scripts.aensure_topic(batch.topic)
    raw = await scripts.arun("enqueue", batch.topic, batch.args)
    if all(code in (1, 2) for code in raw):
        return batch.accepted(raw, _ended_payload)
    return await asyncio.to_thread(batch.accepted, raw, _ended_payload)


def _next(ids: Iterator[str]) -> str:
    try:
        return next(ids)
    except StopIteration:
        raise errors.InvalidOption("fewer task_ids than payloads") from None


def _due(delay_s: float | None) -> str:
    if delay_s is None:
        return ""
    ok = isinstance(delay_s, (int, float)) and not isinstance(delay_s, bool)
    if not ok or not 0 <= delay_s <= 10 * 366 * 86_400:
        raise errors.InvalidOption(f"delay_s {delay_s!r} is not 0 s to 10 years")
    return f"+{int(delay_s * 1000)}" if delay_s else ""


def _options(max_attempts: int | None, timeout_s: float | None) -> str:
    parts = []
    if max_attempts is not None:
        ok = isinstance(max_attempts, int) and not isinstance(max_attempts, bool)
        if not ok or not 1 <= max_attempts <= ATTEMPTS_MOST:
            raise errors.InvalidOption(
                f"max_attempts {max_attempts!r} is not 1 to {ATTEMPTS_MOST}"
            )
        parts.append(f"m={max_attempts}")
    if timeout_s is not None:
        ok = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool)
        if not ok or not 0 < timeout_s <= 7 * 86_400:
            raise errors.InvalidOption(
                f"timeout_s {timeout_s!r} is not above 0 s, up to 7 days"
            )
        parts.append(f"t={float(timeout_s):.15g}")
    return ",".join(parts)


def _after_commit(action: Callable[[], Any]) -> None:
    from django.db import transaction

    transaction.on_commit(action)


def cancel(task_id: str, topic: str | None = None) -> str:
    """Cancel a task: `cancelled`, or `running` where its agent is told to stop it.

    A completion that arrives before the agent stops still wins. Without `topic` all are
    asked. TaskNotFound if the id is unknown, NotCancellable if the task has ended.
    """
    topic = lookup.topic_of(task_id, topic)
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
