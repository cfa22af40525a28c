"""Tasks that wait for the open database transaction.

Django runs hooks in their order and stops at the first that fails, while the rows of
all are in the database. A refused task must not take the ones behind it along, and a
server that is away must not hold up the commit once for each of them.
"""

from __future__ import annotations

import itertools
import time
import weakref

from . import accepting, errors, patience, words
from .batches import Batch
from .conf import conf
from .levels import Level


class _Hook:
    """Sends one task, once; Django holds it until the commit, a rollback lets it go."""

    def __init__(self, batch: Batch, level: Level, line: _Line) -> None:
        self.batch, self.level, self._line = batch, level, line
        self.done = False

    @property
    def task_id(self) -> str:
        return self.batch.items[0].id

    def __str__(self) -> str:
        return f"task {self.task_id} of topic {self.batch.topic!r}"

    def __call__(self) -> None:
        if self.done:
            return
        # One time for all that are left: repeated for no longer than one task would be.
        until = time.monotonic() + conf.SEND_RETRY_S
        with patience.until(until):
            [refusal] = _sent([self])
            if refusal is None:
                return
            try:
                raise refusal
            except errors.BusError:  # also what Ctrl-C in here is told with
                refusal.add_note(f"{self} waited for the commit of a transaction")
                # Those behind, which Django would not reach any more.
                line = list(self._line)
                behind = [hook for hook in line[line.index(self) :] if not hook.done]
                _send_all(behind, refusal, until)
                raise


# The hooks of one connection, in order. Weakly: what a savepoint rolled back is
# nobody's, and so gone from here.
_Line = weakref.WeakKeyDictionary[_Hook, None]
_lines: weakref.WeakKeyDictionary[object, _Line] = weakref.WeakKeyDictionary()


def after_commit(batch: Batch, level: Level, on_commit: bool | str) -> None:
    """Send a batch of one once the open transaction is committed, or at once if there
    is none.

    True means the transaction that is open, a text the database it names. The first
    refusal comes out of the commit, with the others as its notes; everything else of
    ours that waits for the same commit is sent all the same. Where the server stays
    away nothing is tried for ever: what was not sent is in `facts["unsent"]`.
    """
    from django.db import transaction

    alias = _alias(on_commit)
    line = _lines.setdefault(transaction.get_connection(alias), _Line())
    hook = _Hook(batch, level, line)
    line[hook] = None
    transaction.on_commit(hook, using=alias)


def waiting() -> list[str]:
    """The tasks that wait for a commit, and with it are not sent yet."""
    lines = list(_lines.values())
    return [str(hook) for line in lines for hook in list(line) if not hook.done]


def _alias(on_commit: bool | str) -> str:
    """The database whose commit is meant; InvalidOption where that is not plain."""
    from django.db import DEFAULT_DB_ALIAS, connections

    if isinstance(on_commit, str):
        if on_commit not in list(connections):
            raise errors.InvalidOption(
                f"on_commit={on_commit!r} is no database of this project; there are "
                f"{', '.join(connections)}"
            )
        return on_commit
    # In no transaction of Django's, yet in one: Django refuses a hook there, and tells.
    open_ = [
        each.alias
        for each in connections.all(initialized_only=True)
        if each.in_atomic_block or (each.connection and not each.autocommit)
    ]
    if DEFAULT_DB_ALIAS in open_ or not open_:
        return DEFAULT_DB_ALIAS
    if len(open_) > 1:
        raise errors.InvalidOption(
            f"on_commit=True, and {' and '.join(open_)} are in a transaction each; say "
            f"which one: on_commit={open_[0]!r}"
        )
    return open_[0]


def _send_all(hooks: list[_Hook], first: errors.BusError, until: float) -> None:
    """Send them in their order, and tell with the first refusal what became of them."""
    parts: list[list[_Hook]] = []
    for level, group in itertools.groupby(hooks, key=lambda hook: hook.level):
        some = list(group)
        # Who waits for a level waits together.
        parts += [some] if level.waits else [[hook] for hook in some]
    away = False
    # Once the time is over, one more that finds the server away is the last to try.
    while parts and not (away and time.monotonic() >= until):
        part, away = parts.pop(0), False
        for hook, refusal in zip(part, _sent(part), strict=True):
            if refusal is not None:
                first.add_note(f"{hook} of the same transaction: {refusal}")
                away = away or _is_away(refusal)
    unsent = [hook for part in parts for hook in part]
    for hook in unsent:
        hook.done = True
    if unsent:
        tasks = words.count(len(unsent), "task")
        told = ", ".join(map(str, unsent))
        first.add_note(f"{tasks} of the same transaction not sent: {told}")
    first.facts["unsent"] = [hook.task_id for hook in unsent]


def _sent(hooks: list[_Hook]) -> list[errors.BusError | None]:
    """What each was refused with, of several that have a level in common."""
    for hook in hooks:
        hook.done = True
    try:
        found = accepting.send([hook.batch for hook in hooks], hooks[0].level)
    except errors.BusError as exc:
        return [exc] * len(hooks)
    refusals: list[errors.BusError | None] = []
    for hook, outcomes in zip(hooks, found, strict=True):
        try:
            accepting.taken(hook.batch.topic, outcomes)
            refusals.append(None)
        except errors.BusError as exc:
            refusals.append(exc)
    return refusals


def _is_away(exc: errors.BusError) -> bool:
    """Whether nothing answered; a level that was missed says that something did."""
    return isinstance(exc, errors.BusUnavailable) and not isinstance(
        exc, errors.LevelNotReached
    )
