"""Dead letters that failed alike: one failure group, page by page, of many topics."""

from __future__ import annotations

from collections.abc import Sequence

from . import connection, keys, letters, refusals
from .abreast import Ask
from .letters import DeadLetter


def list_alike(
    topic: str, fingerprint: str, count: int = 50, before: str | None = None
) -> list[DeadLetter]:
    """Letters of one failure group, the newest first; `before` continues below that id.

    Empty for a group that nobody knows (any more). Letters that leave between the two
    looks are left out, so a page may be short.
    """
    keys.check_count(count, 1_000)
    [ids] = list_ids(fingerprint, [Ask(topic, count, before=before)])
    return read([(topic, sid) for sid in ids])


def list_ids(fingerprint: str, asks: Sequence[Ask]) -> list[list[str]]:
    """Entry ids of a failure's letters in each topic, the newest first, in one round
    trip, unless more died within a millisecond than were asked for."""
    found: list[list[str]] = [[] for _ in asks]
    starts = [0] * len(asks)
    going = [*range(len(asks))]
    groups = [keys.group_key(keys.check_topic(ask.topic), fingerprint) for ask in asks]
    befores = [ask.before and keys.check_entry(ask.before) for ask in asks]
    with refusals.guard():
        while going:
            pipe = connection.reader().pipeline(transaction=False)
            for at in going:
                # By score, since a letter keeps the time of its death; ids that share a
                # millisecond with the bound are told apart below.
                top = (befores[at] or "+inf").partition("-")[0]
                count = asks[at].count
                pipe.zrevrangebyscore(groups[at], top, "-inf", starts[at], count)
            replies, asked, going = pipe.execute(), going, []
            for at, ids in zip(asked, replies, strict=True):
                before, count = befores[at], asks[at].count
                found[at] += [sid for sid in ids if not before or _older(sid, before)]
                starts[at] += len(ids)
                if len(ids) == count and len(found[at]) < count:
                    going.append(at)
    return [ids[: ask.count] for ids, ask in zip(found, asks, strict=True)]


def read(wanted: Sequence[tuple[str, str]]) -> list[DeadLetter]:
    """The letters at these topics and entry ids, without those that left since."""
    return [letter for letter in found(wanted) if letter is not None]


def found(wanted: Sequence[tuple[str, str]]) -> list[DeadLetter | None]:
    """`read`, with None in the place of each letter that left."""
    if not wanted:
        return []
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        for topic, sid in wanted:
            pipe.xrange(keys.dead_stream(topic), sid, sid)
        replies = pipe.execute()
    return [
        letters.parse_letter(topic, *rows[0]) if rows else None
        for (topic, _), rows in zip(wanted, replies, strict=True)
    ]


def _older(one: str, other: str) -> bool:
    """Whether the index lists `one` behind `other`: within a millisecond it goes by
    text, so that a page which ends there skips nothing."""
    return (int(one.partition("-")[0]), one) < (int(other.partition("-")[0]), other)
