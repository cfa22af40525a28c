"""Topics emptied and deleted: every task that goes ends, none just vanishes."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

from . import (
    alike,
    connection,
    dead,
    decisions,
    errors,
    keys,
    letters,
    records,
    refusals,
    scripts,
    topics,
)
from .conf import conf
from .letters import DeadLetter

WHAT: Final = ("waiting", "dead", "all")
LETTERS: Final = 50  # per call; each carries its payload there and back
_TRIES: Final = 20  # of a deletion that finds letters again


def purge_topic(topic: str, what: str = "waiting") -> dict[str, int]:
    """Empty a topic of what it holds now; how many `cancelled, asked, discarded`.

    `waiting`: waiting and delayed tasks end `cancelled`. `dead`: dead letters are
    discarded; `undo` brings the newest 10,000 of an hour back. `all`: both, and agents
    are asked to stop what they run, as `cancel` does. What comes while this runs stays.
    In steps of a hundred: after an error, whose `facts` have the counts until then as
    `done`, call it again. TopicNotFound, InvalidOption.
    """
    if what not in WHAT:
        raise errors.InvalidOption(f"what {what!r:.80} is not one of {', '.join(WHAT)}")
    topics.check_known(topic)
    counts = {"cancelled": 0, "asked": 0, "discarded": 0}
    with _telling(counts):
        if what != "dead":
            _cancel(topic, "ask" if what == "all" else "", counts)
        if what != "waiting":
            _discard(topic, counts)
    return counts


def delete_topic(topic: str, *, force: bool = False) -> dict[str, int]:
    """Delete a topic with all its keys; how many tasks were `cancelled, discarded`.

    What waits ends `cancelled` before, letters `discarded`, so whoever watches is told.
    While agents run tasks of it: TopicBusy; with `force` these end `cancelled` too, and
    what their agents report is refused. A task that comes meanwhile begins a new topic
    of this name; so does an agent that serves it. TopicNotFound if nobody knows it. An
    error has `done`, as that of `purge_topic`.
    """
    topics.check_known(topic)
    counts = {"cancelled": 0, "discarded": 0}
    with _telling(counts):
        for _ in range(_TRIES):
            running = 0 if force else topics.stats(topic)["running"]
            if not running:
                running = _cancel(topic, "tear" if force else "", counts)
            if running:
                some = "1 task" if running == 1 else f"{running:,} tasks"
                raise errors.TopicBusy(
                    f"agents run {some} of topic {topic!r}: wait for them, or force it"
                )
            _discard(topic, counts)
            deleted, live = scripts.run("wipe", topic)
            if deleted:
                _forget(topic, bool(live))
                return counts
            # A letter came between the last two steps.
        raise errors.TopicBusy(f"tasks of topic {topic!r} go on dying: stop its agents")


@contextlib.contextmanager
def _telling(counts: dict[str, int]) -> Iterator[None]:
    """Whoever catches what ends the walk knows what it had done by then."""
    try:
        yield
    except errors.BusError as exc:
        exc.facts["done"] = counts
        raise


def _cancel(topic: str, running: str, counts: dict[str, int]) -> int:
    """A walk through the live tasks, counted as it goes; how many old ones stay."""
    at, came, left = "0", "", 0
    while True:
        args = [topic, at, came, running, conf.RESULTS_KEEP]
        at, came, cancelled, asked, still = scripts.run("purge", topic, args)
        counts["cancelled"] += cancelled
        if "asked" in counts:
            counts["asked"] += asked
        left += int(still)
        if at == "0":
            return left


def _discard(topic: str, counts: dict[str, int]) -> None:
    """Discard every letter there is now, counted as it goes."""
    last, after = records.place_of(dead.last_dead_id(topic)), "0-0"
    while True:
        found = dead.dead_after(topic, after, LETTERS)
        batch = [x for x in found if records.place_of(x.entry_id) <= last]
        if not batch:
            return
        counts["discarded"] += _put_away(topic, batch)[0]
        after = batch[-1].entry_id


def discard_alike(topic: str, fingerprint: str) -> int:
    """Discard every letter of one failure that a topic has now; how many.

    `undo` brings the newest 10,000 of an hour back. What dies while this runs stays; 0
    for a failure that nobody knows. In steps: after an error, which has `done` as that
    of `purge_topic`, call it again.
    """
    counts = {"discarded": 0}
    with _telling(counts):
        # From the newest down, so that those which come meanwhile are never met. Where
        # to go on is told by the last one's place in the index, while it has that.
        batch = alike.list_alike(topic, fingerprint, LETTERS)
        while batch:
            rest = alike.list_alike(topic, fingerprint, LETTERS, batch[-1].entry_id)
            counts["discarded"] += _put_away(topic, batch)[0]
            batch = rest
    return counts["discarded"]


def discard_entries(topic: str, entry_ids: Sequence[str]) -> int:
    """Discard up to 50 letters by their entry ids, those that are left; how many."""
    batch = alike.read([(topic, each) for each in entry_ids[:LETTERS]])
    return _put_away(topic, batch)[0] if batch else 0


def discard_entry(topic: str, entry_id: str) -> DeadLetter:
    """Discard the letter at an entry id, also one that somebody wrote without a task:
    that is gone for good. DeadLetterNotFound where there is none (any more): of any
    number of concurrent calls exactly one succeeds."""
    found = alike.read([(topic, keys.check_entry(entry_id))])
    if not found or not any(_put_away(topic, found)):
        raise errors.DeadLetterNotFound(f"no letter at {entry_id} in topic {topic!r}")
    return found[0]


def put_away(topic: str, name: str) -> None:
    """Discard a letter by its task id; one by hand that has none by its entry id."""
    if records.is_sid(name):
        discard_entry(topic, name)
    else:
        decisions.discard(name, topic)


def _put_away(topic: str, batch: list[DeadLetter]) -> tuple[int, int]:
    """Discard these letters in one step; how many of tasks, and of no task, were still
    there."""
    fingerprints = sorted({letter.fingerprint for letter in batch})
    groups = [keys.group_key(topic, fp) for fp in fingerprints]
    args: list[Any] = [conf.RESULTS_KEEP, conf.BIN_MAX, secrets.token_hex(4)]
    for letter in batch:
        place = fingerprints.index(letter.fingerprint) + 1
        args += [letter.entry_id, letters.discarded_row(letter), place]
    discarded, deleted = scripts.run("purge_dead", topic, args, groups)
    return discarded, deleted


def _forget(topic: str, came_again: bool) -> None:
    """Take the name off the list, unless a task has come that belongs to it.

    The list lies in another slot of a cluster, so this cannot be one step with the
    deletion: who sends at this very moment may find the name still on the list, and
    write to a topic that is not on it any more. Its next send after five seconds, or
    any janitor that knew the topic, puts it there again.
    """
    scripts.forget_topics(topic)
    with refusals.guard():
        if not came_again:
            connection.reader().srem(keys.TOPICS, topic)
        there = connection.reader().exists(keys.named("tasks", topic))
    if there:
        scripts.ensure_topic(topic)
