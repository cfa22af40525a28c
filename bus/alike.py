"""Dead letters that failed alike: one failure group, page by page."""

from __future__ import annotations

from . import connection, keys, letters, refusals
from .letters import DeadLetter


def list_alike(
    topic: str, fingerprint: str, count: int = 50, before: str | None = None
) -> list[DeadLetter]:
    """Letters of one failure group, the newest first; `before` continues below that id.

    Empty for a group that nobody knows (any more). Letters that leave between the two
    looks are left out, so a page may be short.
    """
    key = keys.group_key(keys.check_topic(topic), fingerprint)
    keys.check_count(count, 1_000)
    top = "+inf" if before is None else before.partition("-")[0]
    if before is not None:
        before = keys.check_entry(before)
    with refusals.guard():
        client = connection.reader()
        found: list[str] = []
        at = 0
        while len(found) < count:
            # By score, since a letter keeps the time of its death; ids that share a
            # millisecond with `before` are told apart here.
            ids = client.zrevrangebyscore(key, top, "-inf", start=at, num=count)
            found += [sid for sid in ids if before is None or _older(sid, before)]
            at += len(ids)
            if len(ids) < count:
                break
        pipe = client.pipeline(transaction=False)
        for sid in found[:count]:
            pipe.xrange(keys.dead_stream(topic), sid, sid)
        replies = pipe.execute() if found else []
    return [letters.parse_letter(topic, *rows[0]) for rows in replies if rows]


def _older(one: str, other: str) -> bool:
    """Whether the index lists `one` behind `other`: within a millisecond it goes by
    text, so that a page which ends there skips nothing."""
    return (int(one.partition("-")[0]), one) < (int(other.partition("-")[0]), other)
