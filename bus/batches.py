"""Tasks of one script call: what is sent, and what became of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from . import errors, messages, recent
from .conf import conf
from .messages import Task
from .wanted import Item, check_maxlen

BATCH: Final = 100  # tasks per script call: a script stays far below 5 ms


class Accepted(NamedTuple):
    """What became of one task: its state on acceptance, `new` unless it is a repeat.

    `durability` is the level that was waited for or asked for; empty: what the server
    does by itself (`tasks.durability`). Where it was refused, `error` says why
    and nothing was written for it: InvalidName, InvalidOption, InvalidPayload,
    TaskConflict, TopicFull, DamagedKey; or BusUnavailable, and OutcomeUnknown
    (LevelNotReached) if it may have been written: repeat that with the same id.
    """

    id: str
    state: str
    new: bool
    error: errors.BusError | None = None
    durability: str = ""


# What `enqueue.lua` answers per task.
_FULL, _DELAYED, _LIVE, _OTHER_TEXT, _DONE, _DEAD, _BY_KEY = 0, 2, 3, 4, 5, 6, 7
_RUNNING: Final = 8
_STATES: Final = {
    _DELAYED: messages.DELAYED,
    _DONE: messages.DONE,
    _DEAD: messages.DEAD,
    _RUNNING: messages.RUNNING,
}


WAY: Final = (
    "let agents work the backlog down, handle its dead letters, or raise the limit"
)


class Batch:
    """Up to 100 tasks on their way: the script's arguments and what its reply means."""

    def __init__(
        self, topic: str, items: Sequence[Item], maxlen: int | None = None
    ) -> None:
        self.topic = topic
        self.items = items
        self._reached = ""  # the level of durability of those that are accepted
        bound = "" if maxlen is None else check_maxlen(maxlen)
        self._most = bound
        full, now = False, True
        for item in items:
            if item.digest or item.maxlen:
                full = True
                break
            if item.due:
                now = False
        # The cheaper verb, which goes first where it may suffice.
        self.first = "send" if now and not full else ""
        self.args: list[Any] = [conf.BACKLOG_MAX, conf.DEAD_MAX, bound]
        self.args.append(max(1, conf.SEEN_MAX // 2) if full else "")
        for item in items:
            # Most tasks have neither key nor bound: no need to send that they have not.
            self.args += item[:6] if full else item[:4]

    def ended(self, raw: list[Any]) -> list[str]:
        """Ids of known tasks to look at: for their payloads, or for how they ended."""
        pairs = zip(self.items, raw, strict=True)
        return [
            item.id
            for item, code in pairs
            if isinstance(code, list)
            and (code[0] in (_OTHER_TEXT, _DONE, _DEAD) or code == [_BY_KEY, _DONE])
        ]

    @property
    def call(self) -> tuple[str, list[Any]]:
        """Topic and arguments of the script."""
        return self.topic, self.args

    def outcomes(
        self, raw: list[Any], ended: dict[str, Task | None], reached: str
    ) -> list[Accepted]:
        """One per task, given the tasks of `ended` as they stand."""
        self._reached = reached
        if len(raw) == 1 and isinstance(raw[0], str):
            # A single new task; its sender may want to wait for it.
            recent.note(self.items[0].id, self.topic, raw[0])
        pairs = zip(self.items, raw, strict=True)
        return [self._outcome(item, code, ended) for item, code in pairs]

    def _outcome(
        self, item: Item, code: Any, ended: dict[str, Task | None]
    ) -> Accepted:
        if isinstance(code, str):  # the entry of a new task
            return Accepted(item.id, messages.WAITING, True, None, self._reached)
        kind, detail = (code, 0) if isinstance(code, int) else code
        if kind == _DELAYED:
            return Accepted(item.id, messages.DELAYED, True, None, self._reached)
        if kind == _FULL:
            most = item.maxlen or self._most
            said = f"has as many tasks as maxlen {most} allows, or " if most else ""
            full = errors.TopicFull(f"topic {self.topic!r} {said}is full: {WAY}")
            return Accepted(item.id, "", False, full)
        where: int = detail if kind in (_BY_KEY, _LIVE) else kind
        if kind not in (_BY_KEY, _LIVE):
            same = _same(item, kind, detail, ended)
        else:
            same = where >= 0
        if not same:
            name = f"task id {item.id}"
            if item.key:
                name = f"idempotency key {item.key!r} ({name})"
            conflict = errors.TaskConflict(
                f"{name} is taken by a task with another payload"
            )
            return Accepted(item.id, "", False, conflict)
        task = ended.get(item.id)
        state = task.state if task else _STATES.get(where, messages.WAITING)
        return Accepted(item.id, state, False, None, self._reached)

    def short(
        self, outcomes: list[Accepted], error: errors.LevelNotReached
    ) -> list[Accepted]:
        """The same where the level was not reached: none of them is a success."""
        found = []
        for outcome in outcomes:
            if outcome.error is None:
                error.task_ids.append(outcome.id)
                outcome = Accepted(outcome.id, "", False, error)
            found.append(outcome)
        return found

    def refused(self, error: errors.BusError) -> list[Accepted]:
        """The outcome of all where the server gave none."""
        if isinstance(error, errors.OutcomeUnknown):
            error.task_ids += [item.id for item in self.items]
        return [Accepted(item.id, "", False, error) for item in self.items]


def wrote(raw: list[Any]) -> bool:
    """Whether `enqueue.lua` wrote anything: it does for repeats, not for refusals."""
    return any(code != _FULL for code in raw)


def _same(item: Item, kind: int, detail: Any, ended: dict[str, Task | None]) -> bool:
    """Whether the known task carries this payload, compared as values."""
    mine = messages.decode(item.json)
    if kind == _OTHER_TEXT and messages.same(messages.decode_or_text(detail), mine):
        return True
    task = ended[item.id]
    if task is not None and any(
        "payload" in replay and messages.same(replay["payload"], mine)
        for replay in task.replays
    ):
        return True  # it was sent with this one, which an operator edited since
    if kind == _OTHER_TEXT:
        return False
    if task is None or not (task.fence or task.enqueued_at):
        return True  # done without a row: acked by hand, or trimmed
    if task.error and task.error.get("reason") == "moved":
        return True  # its agent chose what to put into the letter
    return messages.same(task.payload, mine)
