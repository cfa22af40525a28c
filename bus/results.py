"""Results, read from their stream."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any, Final

import redis

from . import (
    connection,
    errors,
    history,
    keys,
    lookup,
    messages,
    recent,
    refusals,
    replies,
    scripts,
    verbs,
)
from .messages import Task

LOOK_S: Final = 5.0  # all that tells of an end may be trimmed before it is read
_RETRY_S: Final = 0.1
_SEQ_MOST: Final = 2**64 - 1  # of an entry id
_STEP: Final = 200  # rows of a file that are read at once, where they are small
_LEAF: Final = 50  # rows of a bounded page that are: each may have a mebibyte
_BOUND_BYTES: Final = 16 * 2**20  # of a page; a thousand large results fill a memory


def tail_results(topic: str, count: int = 10) -> list[tuple[str, dict[str, Any]]]:
    """The newest results first: `(entry id, row)`.

    Cancelled and discarded tasks are left out. A row that somebody else wrote without
    JSON comes back as its raw fields.
    """
    key = keys.result_stream(topic)
    try:
        keys.check_count(count or 1 if type(count) is int else count)
    except errors.InvalidOption:
        raise errors.InvalidOption(f"count {count!r} is not 0 to 100000") from None
    found: list[tuple[str, dict[str, Any]]] = []
    before = "+"
    while len(found) < count:
        ask = max(count - len(found), 10)
        with refusals.guard():
            rows = connection.reader().xrevrange(key, before, "-", count=ask)
        found += [item for item in map(_row, rows) if _is_result(item[1])]
        if len(rows) < ask:
            break
        before = f"({rows[-1][0]}"
    return found[:count]


def page(
    topic: str, count: int = 50, after: str | None = None, before: str | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Rows as `(entry id, row)`, the newest first; `before` continues below that id.

    With `after` the rows newer than that id, the oldest first (up to `before`, if given
    too). Rows of cancelled and discarded tasks are among them, told by their `state`;
    rows that somebody else wrote come as they are. Rows of tasks that did not end at
    their first attempt have `epoch, attempts, replays` as well, without tracebacks and
    replaced payloads, which `get_task` has.
    """
    keys.check_count(count, 1_000)
    return [*map(_told, _read(topic, count, after, before))]


def bounded(
    topic: str, count: int = 50, after: str | None = None, before: str | None = None
) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """Rows of `page`, and whether there may be more behind them.

    Where they are large they are fewer than `count`: what goes beyond 16 MiB, by up to
    50 rows, is the last of it.
    """
    keys.check_count(count, 1_000)
    found: list[tuple[str, dict[str, Any]]] = []
    size = 0
    while True:
        want = min(count - len(found), _LEAF)
        rows = _read(topic, want, after, before)
        found += map(_told, rows)
        size += sum(len(fields.get("json", "")) for _, fields in rows)
        if len(rows) < want:
            return found, False
        if len(found) == count or size > _BOUND_BYTES:
            return found, True
        if after is None:
            before = rows[-1][0]
        else:
            after = rows[-1][0]


def each(
    topic: str, after: str | None = None, before: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows of `page`, some 16 MiB at once, without those that come meanwhile."""
    if after is not None and before is None:
        ms, _, seq = last_result_id(topic).partition("-")
        before = f"{ms}-{int(seq) + 1}"
    step = _LEAF
    while True:
        rows = _read(topic, step, after, before)
        yield from map(_told, rows)
        if len(rows) < step:
            return
        if after is None:
            before = rows[-1][0]
        else:
            after = rows[-1][0]
        size = sum(len(text) for _, fields in rows for text in fields.values())
        step = max(1, min(_STEP, _BOUND_BYTES * step // max(1, size)))


def _read(topic: str, count: int, after: str | None, before: str | None) -> list[Any]:
    key = keys.result_stream(topic)
    low = "-" if after is None else keys.above(keys.check_entry(after))
    high = "+" if before is None else keys.below(keys.check_entry(before))
    with refusals.guard():
        client = connection.reader()
        if after is None:
            return list(client.xrevrange(key, high, low, count=count))
        return list(client.xrange(key, low, high, count=count))


def _told(entry: tuple[str, dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """A row as `page` has it, with its history."""
    return entry[0], history.row_of(entry[1])


def _row(entry: tuple[str, dict[str, str]]) -> tuple[str, dict[str, Any]]:
    entry_id, fields = entry
    row = messages.parse_row(fields.get("json", "")) or dict(fields)
    return entry_id, row


def _is_result(row: dict[str, Any]) -> bool:
    return row.get("state") not in (messages.CANCELLED, messages.DISCARDED)


def results_after(
    topic: str, after: str, count: int = 100, block_ms: int = 0
) -> list[tuple[str, dict[str, Any]]]:
    """Rows newer than entry id `after`, oldest first, waiting up to `block_ms`."""
    key = keys.result_stream(topic)
    with refusals.guard():
        client = connection.reader()
        if not block_ms:
            rows = client.xrange(key, keys.above(after), "+", count=count)
            return [_row(row) for row in rows]
        reply = connection.waiter().execute_command(
            "XREAD", "COUNT", count, "BLOCK", min(block_ms, 2000), "STREAMS", key, after
        )
    entries = replies.flat_entries(reply)
    return [
        _row((sid, dict(zip(flat[::2], flat[1::2], strict=False))))
        for sid, flat in entries
    ]


def last_result_id(topic: str) -> str:
    """The newest entry id, from which to follow; `0-0` if there is none yet."""
    with refusals.guard():
        rows = connection.reader().xrevrange(keys.result_stream(topic), count=1)
    return str(rows[0][0]) if rows else "0-0"


def check_wait(timeout_s: float) -> float:
    """How long somebody wants to wait, in seconds, or InvalidOption."""
    ok = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool)
    if not ok or not timeout_s >= 0:  # a comparison that NaN fails as well
        raise errors.InvalidOption(f"timeout_s {timeout_s!r} is not 0 s or more")
    return timeout_s


def wait_result(
    task_id: str, topic: str | None = None, timeout_s: float = 10.0
) -> Task:
    """The task once it has ended (done, dead, cancelled, discarded), or as it stands
    after `timeout_s`; TaskNotFound if it is unknown. Without `topic` all are asked.

    InvalidOption unless `timeout_s` is 0 s or more (infinity waits for ever).

    The cursors are taken before the look, so an end in between wakes the wait.
    """
    until = time.monotonic() + check_wait(timeout_s)
    task_id = keys.check_task_id(task_id)
    sent = recent.take(task_id)
    while True:
        try:
            if sent is not None and topic in (None, sent.topic):
                behind, sent = sent, None
                ended = _waited_behind(task_id, behind, until)
                if ended is not None:
                    return ended
            topic = lookup.topic_of(task_id, topic)
            task = _waited(task_id, topic, min(until, time.monotonic() + LOOK_S))
            if task.ended or time.monotonic() >= until:
                return task
        except errors.BusUnavailable:
            # A connection that went stale, a server that restarts: there is time left.
            if time.monotonic() + _RETRY_S >= until:
                raise
            time.sleep(_RETRY_S)


@functools.lru_cache(maxsize=1_024)
def _streams(topic: str) -> tuple[str, ...]:
    """Where an end is written down, at the latest as an event: acks by hand are."""
    return tuple(keys.named(name, topic) for name in ("results", "dead", "events"))


def _waited_behind(task_id: str, sent: recent.Sent, until: float) -> Task | None:
    """The task that this process has just sent, once it has ended.

    None where it takes longer: then it is looked up as any other. That is for a server
    whose clock went back, and for results trimmed before we came to read them.
    """
    # Ids of two streams may be equal within a millisecond: from all of it on, but for
    # what was read of it before. A look at that again would take as long as the task.
    ms = messages.entry_ms(sent.sid)
    cursors = [f"{ms - 1}-{_SEQ_MOST}"] * 3
    for at, seen in enumerate(sent.seen):
        if messages.entry_ms(seen) == ms:
            cursors[at] = seen
    until = min(until, time.monotonic() + connection.BLOCK_MOST_S)
    while (left_s := until - time.monotonic()) > 0:
        task = _next_look(task_id, sent.topic, cursors, left_s)
        if task is not None and task.ended:
            return task
    return None


def _waited(task_id: str, topic: str, until: float) -> Task:
    """The task once it has ended, or as it stands at `until` (monotonic s)."""
    cursors, task = _first_look(task_id, topic)
    while not task.ended and (left_s := until - time.monotonic()) > 0:
        left_s = min(left_s, connection.BLOCK_MOST_S)
        task = _next_look(task_id, topic, cursors, left_s) or task
    return task if task.ended else lookup.get_task(task_id, topic)


def _first_look(task_id: str, topic: str) -> tuple[list[str], Task]:
    """Where the streams end and, looked at after that, how the task stands."""
    ends = [("XREVRANGE", stream, "+", "-", "COUNT", "1") for stream in _streams(topic)]
    with refusals.guard():
        answers = connection.writer().execute_all(
            [*ends, verbs.command("get_task", topic, [task_id])]
        )
    raw = answers.pop()
    for answer in answers:
        if isinstance(answer, Exception):
            raise refusals.mapped(answer) from answer
    if isinstance(raw, redis.exceptions.NoScriptError):
        raw = scripts.run("get_task", topic, [task_id])
    elif isinstance(raw, Exception):
        raise refusals.mapped(raw) from raw
    task = lookup.task_of(topic, task_id, raw)
    if task is None:
        raise lookup.unknown(task_id)
    return [rows[0][0] if rows else "0-0" for rows in answers], task


def _next_look(
    task_id: str, topic: str, cursors: list[str], block_s: float
) -> Task | None:
    """The task once an entry names it, None after `block_s`; moves the cursors."""
    streams, block_ms = _streams(topic), max(1, int(block_s * 1000))
    command = ("XREAD", "COUNT", 100, "BLOCK", block_ms, "STREAMS", *streams, *cursors)
    try:
        reply = connection.waiter().execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        raise refusals.mapped(exc) from exc
    named = False
    found = replies.streams_of(reply)
    for stream, entries in found:
        cursors[streams.index(stream)] = entries[-1][0]
    if found:
        recent.see(topic, cursors)
    for stream, entries in found:
        at = streams.index(stream)
        for entry_id, flat in entries:
            if task_id not in flat:
                continue
            fields = dict(zip(flat[::2], flat[1::2], strict=False))
            if fields.get("id") != task_id:
                continue
            named = True
            # Our own row says it all; one that somebody wrote by hand does not.
            row = messages.parse_row(fields.get("json", "")) if at == 0 else {}
            if row.get("fence") and row.get("state") in messages.ROW_STATES:
                return lookup.done_task(topic, task_id, fields, entry_id, row)
    return lookup.get_task(task_id, topic) if named else None
