"""Tasks on their way in: sent by the hundred, each with its own outcome."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import errors, keys, lookup, messages, recent, scripts
from .conf import conf
from .messages import Task
from .wanted import Item, Wanted, check_maxlen, item_of

BATCH: Final = 100  # tasks per script call: a script stays far below 5 ms


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one task: its state on acceptance, `new` unless it is a repeat.

    Where it was refused, `error` says why and nothing was written for it: InvalidName,
    InvalidOption, InvalidPayload, TaskConflict, TopicFull; or BusUnavailable, and
    OutcomeUnknown if it may have been written: repeat that with the same id.
    """

    id: str
    state: str
    new: bool
    error: errors.BusError | None = None


def accept(topic: str, wanted: Iterable[Wanted]) -> list[Accepted]:
    """Accept tasks of one topic, each for itself, 100 per round trip; in order.

    Other than `enqueue_many` one that is refused does not keep the rest from being
    accepted. InvalidName and TooManyTopics are of the topic, and raised.
    """
    batches, out = _packed(topic, wanted)
    for batch, places in batches:
        try:
            _settle(out, places, send(batch))
        except errors.BusUnavailable as exc:
            _settle(out, places, batch.refused(exc))
    return _all(out)


async def aaccept(topic: str, wanted: Iterable[Wanted]) -> list[Accepted]:
    """`accept` for asyncio; it holds no thread."""
    batches, out = _packed(topic, wanted)
    for batch, places in batches:
        try:
            _settle(out, places, await asend(batch))
        except errors.BusUnavailable as exc:
            _settle(out, places, batch.refused(exc))
    return _all(out)


def _packed(
    topic: str, wanted: Iterable[Wanted]
) -> tuple[list[tuple[Batch, list[int]]], list[Accepted | None]]:
    """Batches with the places of their tasks; what is refused here is settled."""
    keys.check_topic(topic)
    out: list[Accepted | None] = []
    good: list[tuple[int, Item]] = []
    for place, each in enumerate(wanted):
        try:
            good.append((place, item_of(topic, each)))
            out.append(None)
        except (errors.InvalidName, errors.InvalidOption, errors.InvalidPayload) as exc:
            out.append(Accepted(str(each.task_id or ""), "", False, exc))
    batches = []
    for at in range(0, len(good), BATCH):
        part = good[at : at + BATCH]
        batch = Batch(topic, [item for _, item in part])
        batches.append((batch, [place for place, _ in part]))
    return batches, out


def _settle(
    out: list[Accepted | None], places: list[int], outcomes: list[Accepted]
) -> None:
    for place, outcome in zip(places, outcomes, strict=True):
        out[place] = outcome


def _all(out: list[Accepted | None]) -> list[Accepted]:
    return [outcome for outcome in out if outcome is not None]


# What `enqueue.lua` answers per task.
_FULL, _DELAYED, _LIVE, _OTHER_TEXT, _DONE, _DEAD, _BY_KEY = 0, 2, 3, 4, 5, 6, 7
_STATES: Final = {
    _DELAYED: messages.DELAYED,
    _DONE: messages.DONE,
    _DEAD: messages.DEAD,
}


_WAY: Final = (
    "let agents work the backlog down, handle its dead letters, or raise the limit"
)


class Batch:
    """Up to 100 tasks on their way: the script's arguments and what its reply means."""

    def __init__(
        self, topic: str, items: Sequence[Item], maxlen: int | None = None
    ) -> None:
        self.topic = topic
        self.items = items
        bound = "" if maxlen is None else check_maxlen(maxlen)
        full = any(item.digest or item.maxlen for item in items)
        self.args: list[Any] = [conf.BACKLOG_MAX, conf.DEAD_MAX, bound]
        self.args.append("1" if full else "")
        for item in items:
            # Most tasks have neither key nor bound: no need to send that they have not.
            self.args += item if full else item[:4]

    def ended(self, raw: list[Any]) -> list[str]:
        """Ids known as ended, whose payloads decide whether they are the same task."""
        pairs = zip(self.items, raw, strict=True)
        return [
            item.id
            for item, code in pairs
            if isinstance(code, list) and code[0] in (_DONE, _DEAD)
        ]

    def outcomes(self, raw: list[Any], ended: dict[str, Task | None]) -> list[Accepted]:
        """One per task, given the tasks of `ended` as they stand."""
        pairs = zip(self.items, raw, strict=True)
        return [self._outcome(item, code, ended) for item, code in pairs]

    def _outcome(
        self, item: Item, code: Any, ended: dict[str, Task | None]
    ) -> Accepted:
        if isinstance(code, str):  # the entry of a new task
            return Accepted(item.id, messages.WAITING, True)
        kind, detail = (code, 0) if isinstance(code, int) else code
        if kind == _DELAYED:
            return Accepted(item.id, messages.DELAYED, True)
        if kind == _FULL:
            full = errors.TopicFull(f"topic {self.topic!r} is full: {_WAY}")
            return Accepted(item.id, "", False, full)
        where: int = detail if kind == _BY_KEY else kind
        if kind not in (_BY_KEY, _LIVE):
            same = _same(item, kind, detail, ended)
        else:
            same = where >= 0
        if not same:
            conflict = errors.TaskConflict(
                f"task id {item.id} is taken by a task with another payload"
            )
            return Accepted(item.id, "", False, conflict)
        return Accepted(item.id, _STATES.get(where, messages.WAITING), False)

    def waits(self, sid: str) -> Accepted:
        """The outcome of a single new task; its sender may want to wait for it."""
        task_id = self.items[0].id
        recent.note(task_id, self.topic, sid)
        return Accepted(task_id, messages.WAITING, True)

    def refused(self, error: errors.BusError) -> list[Accepted]:
        """The outcome of all where the server gave none."""
        return [Accepted(item.id, "", False, error) for item in self.items]


def _same(item: Item, kind: int, detail: Any, ended: dict[str, Task | None]) -> bool:
    """Whether the known task carries this payload, compared as values."""
    mine = messages.decode(item.json)
    if kind == _OTHER_TEXT:
        return messages.same(messages.decode_or_text(detail), mine)
    task = ended[item.id]
    if task is None or not (task.fence or task.enqueued_at):
        return True  # done without a row: acked by hand, or trimmed
    if task.error and task.error.get("reason") == "moved":
        return True  # its agent chose what to put into the letter
    return messages.same(task.payload, mine)


def send(batch: Batch) -> list[Accepted]:
    """The one way tasks leave for the server (`bus.testing` takes its place)."""
    scripts.ensure_topic(batch.topic)
    raw = scripts.run("enqueue", batch.topic, batch.args)
    if len(raw) == 1 and isinstance(raw[0], str):
        return [batch.waits(raw[0])]
    looked = {each: lookup.found(batch.topic, each) for each in batch.ended(raw)}
    return batch.outcomes(raw, looked)


async def asend(batch: Batch) -> list[Accepted]:
    """`send` for asyncio."""
    await scripts.aensure_topic(batch.topic)
    raw = await scripts.arun("enqueue", batch.topic, batch.args)
    if len(raw) == 1 and isinstance(raw[0], str):
        return [batch.waits(raw[0])]
    looked = {each: await lookup.afound(batch.topic, each) for each in batch.ended(raw)}
    return batch.outcomes(raw, looked)


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
            f"topic {topic!r} is full, {full} of {len(outcomes)} tasks refused: {_WAY}",
            accepted=good,
        )
    return outcomes
