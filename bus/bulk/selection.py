"""Which letters a bulk replay is of, found once and frozen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .. import (
    alike,
    connection,
    dead,
    errors,
    failures,
    keys,
    messages,
    records,
    refusals,
    topics,
)
from ..letters import DeadLetter
from ..sought import Sought

LETTERS_MOST: Final = 100_000  # of one bulk replay, as many as a topic may have
GROUPS_MOST: Final = 50  # told of a selection, the largest
SAMPLE: Final = 5
_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for: task ids, or a filter; of these topics, of all without."""

    topics: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    group: str | None = None
    error: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """What was named, for eyes; of ids only how many."""
        told: dict[str, Any] = {"topics": list(self.topics)} if self.topics else {}
        told |= {"ids": len(self.ids)} if self.ids else {}
        told |= {"group": self.group} if self.group else {}
        told |= {"error": self.error} if self.error else {}
        for name, ms in (("since", self.since_ms), ("until", self.until_ms)):
            if ms is not None:
                told[name] = messages.iso(ms)
        return told


def checked(
    *,
    topics: Sequence[str] = (),
    ids: Sequence[str] = (),
    group: str | None = None,
    error: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> Selection:
    """The selection; InvalidName or InvalidOption for what cannot be one."""
    names = tuple(dict.fromkeys(map(keys.check_topic, topics)))
    if len(ids) > LETTERS_MOST:
        raise too_many()
    wanted = tuple(dict.fromkeys(map(keys.check_task_id, ids)))
    if group is not None and not re.fullmatch(failures.FINGERPRINT, group):
        raise errors.InvalidOption(f"group {group!r:.40} is not a fingerprint")
    filters = (group, error, since_ms, until_ms)
    if wanted and any(each is not None for each in filters):
        raise errors.InvalidOption("ids and a filter: name letters in one way only")
    if not names and not wanted and all(each is None for each in filters):
        raise errors.InvalidOption(
            "which letters? Name ids, topics, a group, an error or a time"
        )
    return Selection(names, wanted, group, error, since_ms, until_ms)


def too_many() -> errors.InvalidOption:
    """The refusal of a selection that is too large."""
    return errors.InvalidOption(
        f"more than {LETTERS_MOST:,} letters are selected, which is the most of one "
        "bulk replay; narrow it by topic, group, error or time"
    )


@dataclass
class Found:
    """The letters of a selection, topic by topic, with what is told of them."""

    members: dict[str, list[str]] = field(default_factory=dict)
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)
    oldest_at: str = ""
    newest_at: str = ""
    missing: int = 0  # ids that are no dead letters

    @property
    def total(self) -> int:
        return sum(map(len, self.members.values()))

    def add(self, letter: DeadLetter) -> None:
        """One more, the oldest of a topic first."""
        self.members.setdefault(letter.topic, [])
        self.members[letter.topic].append(f"{letter.entry_id} {letter.id}")
        place = (letter.topic, letter.fingerprint)
        self.groups[place] += 1
        brief = {name: letter.error.get(name) for name in ("type", "message")}
        self.errors[place] = brief
        if len(self.sample) < SAMPLE:
            head = {"id": letter.id, "topic": letter.topic}
            self.sample.append({**head, "died_at": letter.died_at, "error": brief})
        self.oldest_at = min(self.oldest_at or letter.died_at, letter.died_at)
        self.newest_at = max(self.newest_at, letter.died_at)

    def plan(self, selection: Selection, by: str | None) -> dict[str, Any]:
        """What is told of it, as it is stored."""
        return {
            "by": by,
            "selection": selection.as_dict(),
            "topics": {topic: len(rows) for topic, rows in self.members.items()},
            "groups": [
                {
                    "topic": place[0],
                    "fingerprint": place[1],
                    "count": count,
                    "error": self.errors[place],
                }
                for place, count in self.groups.most_common(GROUPS_MOST)
            ],
            "sample": self.sample,
            "oldest_at": self.oldest_at,
            "newest_at": self.newest_at,
        }


def find(selection: Selection, may: Callable[[str], bool]) -> Found:
    """All letters of a selection as they are now, of topics that one `may` reach.

    Letters that die from now on are none of them. InvalidOption if they are too many,
    TopicNotFound. Reads every letter it looks at, some 10,000 a second.
    """
    named = selection.topics
    if named:
        known = set(topics.list_topics())
        for topic in named:
            if topic not in known:
                topics.check_known(topic)
    found = Found()
    for topic in filter(may, named or topics.list_topics()):
        walk = _named(topic, selection) if selection.ids else _fitting(topic, selection)
        for letter in walk:
            found.add(letter)
            if found.total > LETTERS_MOST:
                raise too_many()
    found.missing = max(0, len(selection.ids) - found.total)
    return found


def _fitting(topic: str, selection: Selection) -> Iterator[DeadLetter]:
    sought = Sought((), None, selection.error, selection.since_ms, selection.until_ms)
    last = records.place_of(dead.last_dead_id(topic))
    for letter in _walk(topic, selection):
        if records.place_of(letter.entry_id) > last:
            return
        if sought.fits(letter) and not sought.passed(letter):
            yield letter


def _walk(topic: str, selection: Selection) -> Iterator[DeadLetter]:
    """Letters of a topic, the oldest first; of one group only, where one is named."""
    if selection.group is not None:
        yield from reversed(_alike(topic, selection.group))
        return
    after = "0-0"
    if selection.since_ms:
        after = f"{max(0, selection.since_ms - 1)}-{2**64 - 1}"
    while page := dead.dead_after(topic, after, _PAGE):
        yield from page
        after = page[-1].entry_id


def _alike(topic: str, group: str) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    before = None
    while page := alike.list_alike(topic, group, _PAGE, before):
        found += page
        before = page[-1].entry_id
        if len(found) > LETTERS_MOST:
            raise too_many()
    return found


def _named(topic: str, selection: Selection) -> Iterator[DeadLetter]:
    """Letters of these ids, the oldest first."""
    index = keys.named("dead_index", topic)
    places: list[str] = []
    with refusals.guard():
        client = connection.reader()
        for at in range(0, len(selection.ids), _PAGE):
            found = client.hmget(index, selection.ids[at : at + _PAGE])
            places += [each for each in found if records.is_sid(each)]
    places.sort(key=records.place_of)
    for at in range(0, len(places), _PAGE):
        yield from alike.read([(topic, place) for place in places[at : at + _PAGE]])
