"""Tasks on their way in: sent by the hundred, each with its own outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import redis

from . import errors, keys, levels, lookup, recent, refusals, scripts, settled
from .batches import BATCH, WAY, Accepted, Batch, wrote
from .conf import conf
from .levels import BY_ITSELF, Level
from .messages import Task
from .wanted import Item, Wanted, item_of

_Placed = tuple[Batch, list[int]]  # a batch, and which of the caller's tasks it holds
SET: Final = 10  # batches that wait together for a level of durability


def accept(
    topic: str, wanted: Iterable[Wanted], durability: str | None = None
) -> list[Accepted]:
    """Accept tasks of one topic, each for itself, 100 per round trip; in order.

    Other than `enqueue_many` one that is refused does not keep the rest from being
    accepted. InvalidName and TooManyTopics are of the topic, a `durability` that the
    server cannot give (`levels.granted`) is of all: raised, and nothing was written.
    """
    keys.check_topic(topic)
    return _of_one(accept_each([(topic, each) for each in wanted], durability))


async def aaccept(
    topic: str, wanted: Iterable[Wanted], durability: str | None = None
) -> list[Accepted]:
    """`accept` for asyncio; it holds no thread."""
    keys.check_topic(topic)
    return _of_one(await aaccept_each([(topic, each) for each in wanted], durability))


def accept_each(
    wanted: Iterable[tuple[str, Wanted]], durability: str | None = None
) -> list[Accepted]:
    """`accept` for tasks of any topics; InvalidName, TooManyTopics are outcomes here.

    A level of durability that is waited for is waited for once per thousand tasks.
    """
    level = levels.granted(durability)
    batches, out = _packed(wanted)
    for group in _in_sets(batches, level):
        _settle(out, group, send([batch for batch, _ in group], level))
    return _all(out)


async def aaccept_each(
    wanted: Iterable[tuple[str, Wanted]], durability: str | None = None
) -> list[Accepted]:
    """`accept_each` for asyncio."""
    level = await levels.agranted(durability)
    batches, out = _packed(wanted)
    for group in _in_sets(batches, level):
        _settle(out, group, await asend([batch for batch, _ in group], level))
    return _all(out)


def _of_one(outcomes: list[Accepted]) -> list[Accepted]:
    """Outcomes of one topic, or TooManyTopics, which is of all of them."""
    for outcome in outcomes:
        if isinstance(outcome.error, errors.TooManyTopics):
            raise outcome.error
    return outcomes


def _in_sets(placed: Sequence[_Placed], level: Level) -> Iterator[list[_Placed]]:
    """Batches as they are sent: one by one, or a thousand tasks that wait together."""
    group: list[_Placed] = []
    count = 0
    for each in placed:
        group.append(each)
        count += len(each[1])
        if not level.waits or count >= BATCH * SET:
            yield group
            group, count = [], 0
    if group:
        yield group


def _packed(
    wanted: Iterable[tuple[str, Wanted]],
) -> tuple[list[_Placed], list[Accepted | None]]:
    """Batches with the places of their tasks; what is refused here is settled."""
    out: list[Accepted | None] = []
    good: dict[str, list[tuple[int, Item]]] = {}
    for place, (topic, each) in enumerate(wanted):
        try:
            item = item_of(keys.check_topic(topic), each)
            good.setdefault(topic, []).append((place, item))
            out.append(None)
        except (errors.InvalidName, errors.InvalidOption, errors.InvalidPayload) as exc:
            out.append(Accepted(str(each.task_id or ""), "", False, exc))
    batches = []
    for topic, placed in good.items():
        for at in range(0, len(placed), BATCH):
            part = placed[at : at + BATCH]
            batch = Batch(topic, [item for _, item in part])
            batches.append((batch, [place for place, _ in part]))
    return batches, out


def _settle(
    out: list[Accepted | None],
    group: Sequence[_Placed],
    outcomes: list[list[Accepted]],
) -> None:
    for (_, places), found in zip(group, outcomes, strict=True):
        for place, outcome in zip(places, found, strict=True):
            out[place] = outcome


def _all(out: list[Accepted | None]) -> list[Accepted]:
    return [outcome for outcome in out if outcome is not None]


def send(
    batches: Sequence[Batch],
    level: Level,
    meanwhile: Callable[[], None] | None = None,
) -> list[list[Accepted]]:
    """The one way tasks leave for the server (`bus.testing` takes its place).

    What the server refuses or leaves open is an error of its tasks, for each batch
    alone; where they wait for a level, one wait is for all. `meanwhile` may be called
    once they are sent.
    """
    if len(batches) == 1 and not level.waits:
        return [_sent_alone(batches[0], level, meanwhile)]
    raws: list[settled.Reply] = []
    short = None
    for batch in batches:
        try:
            scripts.ensure_topic(batch.topic)
            raws.append(
                None
                if level.waits
                else scripts.run("enqueue", *batch.call, first=batch.first)
            )
        except _REFUSALS as exc:
            raws.append(exc)
    if level.waits and None in raws:
        places = [at for at, raw in enumerate(raws) if raw is None]
        calls = [batches[at].call for at in places]
        try:
            replies, short = settled.run_all("enqueue", calls, level, wrote)
        except _REFUSALS as exc:
            replies = [exc] * len(places)
        for at, reply in zip(places, replies, strict=True):
            raws[at] = reply
    looked = [_looked(batch, raw) for batch, raw in zip(batches, raws, strict=True)]
    return _judged(batches, looked, level, short)


def send_one(topic: str, task_id: str, text: bytes) -> None:
    """Accept one new task that is due now, without a word beside its payload; or raise
    as `taken` does. The short way of what most calls bring (`bus.testing`: as `send`).
    """
    failed: Exception | None = None
    bounds = (conf.BACKLOG_MAX, conf.DEAD_MAX, "", "")
    seen = recent.seen(topic)
    try:
        reply = scripts.once("send", topic, bounds, (task_id, "", "", text))
    except (redis.RedisError, OSError) as exc:
        reply, failed = False, exc
    if reply:
        recent.note(task_id, topic, reply[0], seen)
        return
    batch = Batch(topic, [Item(task_id, "", "", text)])
    if reply is None:
        batch.first = ""  # that verb has passed it on
    taken(topic, _sent_alone(batch, BY_ITSELF, None, failed))


def _sent_alone(
    batch: Batch,
    level: Level,
    meanwhile: Callable[[], None] | None,
    failed: Exception | None = None,
) -> list[Accepted]:
    """One batch that waits for nothing: what nearly every call brings."""
    try:
        raw = scripts.run(
            "enqueue",
            batch.topic,
            batch.args,
            known=False,
            first=batch.first,
            meanwhile=meanwhile,
            failed=failed,
        )
    except _REFUSALS as exc:
        return batch.refused(exc)
    raw, ended = _looked(batch, raw)
    if isinstance(raw, errors.BusError):
        return batch.refused(raw)
    return batch.outcomes(raw, ended, str(level))


async def asend(
    batches: Sequence[Batch], level: Level, *, client: Any = None
) -> list[list[Accepted]]:
    """`send` for asyncio; over `client` what waits for no level."""
    raws: list[settled.Reply] = []
    short = None
    for batch in batches:
        try:
            await scripts.aensure_topic(batch.topic)
            raws.append(
                None
                if level.waits
                else await scripts.arun(
                    "enqueue", *batch.call, client=client, first=batch.first
                )
            )
        except _REFUSALS as exc:
            raws.append(exc)
    if level.waits and None in raws:
        places = [at for at, raw in enumerate(raws) if raw is None]
        calls = [batches[at].call for at in places]
        try:
            replies, short = await settled.arun_all("enqueue", calls, level, wrote)
        except _REFUSALS as exc:
            replies = [exc] * len(places)
        for at, reply in zip(places, replies, strict=True):
            raws[at] = reply
    looked = [
        await _alooked(batch, raw) for batch, raw in zip(batches, raws, strict=True)
    ]
    return _judged(batches, looked, level, short)


# Of one batch, whatever became of the others.
_REFUSALS: Final = (errors.BusUnavailable, errors.TooManyTopics, refusals.DamagedKey)
_Looked = tuple[settled.Reply, dict[str, Task | None]]


def _looked(batch: Batch, raw: settled.Reply) -> _Looked:
    """A reply with the tasks behind the ids that it says have ended."""
    try:
        found = {id_: lookup.found(batch.topic, id_) for id_ in _ended(batch, raw)}
    except _REFUSALS as exc:
        # Others of the batch are written, and this one is known.
        return errors.OutcomeUnknown(str(exc)), {}
    return raw, found


async def _alooked(batch: Batch, raw: settled.Reply) -> _Looked:
    ids = _ended(batch, raw)
    try:
        found = {id_: await lookup.afound(batch.topic, id_) for id_ in ids}
    except _REFUSALS as exc:
        return errors.OutcomeUnknown(str(exc)), {}
    return raw, found


def _ended(batch: Batch, raw: settled.Reply) -> list[str]:
    return [] if isinstance(raw, errors.BusError) else batch.ended(raw)


def _judged(
    batches: Sequence[Batch],
    looked: list[_Looked],
    level: Level,
    short: errors.LevelNotReached | None,
) -> list[list[Accepted]]:
    """The outcomes; none is a success that is less durable than wanted."""
    out = []
    for batch, (raw, ended) in zip(batches, looked, strict=True):
        if isinstance(raw, errors.BusError):
            out.append(batch.refused(raw))
            continue
        outcomes = batch.outcomes(raw, ended, str(level))
        out.append(outcomes if short is None else batch.short(outcomes, short))
    return out


def taken(topic: str, outcomes: list[Accepted]) -> list[Accepted]:
    """The outcomes, or the first conflict, or TopicFull with what was `accepted`."""
    full = 0
    for outcome in outcomes:
        if isinstance(outcome.error, errors.TopicFull):
            full += 1
        elif outcome.error is not None:
            raise outcome.error
    if full:
        good = [outcome.id for outcome in outcomes if outcome.error is None]
        raise errors.TopicFull(
            f"topic {topic!r} is full, {full} of {len(outcomes)} tasks refused: {WAY}",
            accepted=good,
        )
    return outcomes
