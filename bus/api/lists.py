"""Pages of lists: cursors for rows that have an order, dead letters of every topic."""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import orjson

import bus
from bus import alike, dead
from bus.abreast import Ask
from bus.letters import DeadLetter
from bus.sought import Sought

from .problems import Problem

T = TypeVar("T")
_Place = tuple[int, Any, str]  # of a letter in its list: when, which then, whose
_LOOK_MOST: Final = 5_000  # letters that one page looks at
_STEP: Final = 200  # of one topic that a page reads at once; of many each reads less
_LEAST: Final = 5
_LEAF: Final = 50  # letters of a topic that a file holds at once


def page(
    name: str,
    rows: Iterable[T],
    key: Callable[[T], list[Any]],
    count: int,
    cursor: str | None,
) -> tuple[list[T], str | None]:
    """Up to `count` rows behind the cursor, in the order of their keys, and the next
    cursor; None after the last. Keys are unique lists of texts and numbers. The name of
    the list is in its cursors: a place in another one is none in this."""
    after = None if cursor is None else _behind(name, cursor)
    found = sorted(rows, key=key)
    if after is not None:
        try:
            found = [row for row in found if key(row) > after]
        except TypeError:
            raise _odd(cursor) from None
    more = len(found) > count
    last = [name, *key(found[count - 1])] if more else None
    return found[:count], _closed(last) if last else None


def _behind(name: str, cursor: str) -> list[Any]:
    match _opened(cursor):
        case [str(of), *key] if of == name:
            return key
    raise _odd(cursor)


def _closed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def _opened(cursor: str) -> list[Any]:
    """The key in a cursor, or Problem: it came from outside."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
        value = orjson.loads(text)
    except (ValueError, binascii.Error):
        raise _odd(cursor) from None
    if not isinstance(value, list):
        raise _odd(cursor)
    return value


def _odd(cursor: str | None) -> Problem:
    return Problem("invalid_option", f"cursor {cursor!r:.80} is none of this list")


def dead_letters(
    sought: Sought, count: int, cursor: str | None
) -> tuple[list[DeadLetter], str | None]:
    """Letters of all sought topics, the newest first, and the next cursor.

    A look has a bound: a page may be short where few of many letters fit, and goes on
    behind its cursor.
    """
    step = max(_LEAST, min(count, _STEP) // max(1, len(sought.topics)))
    found: list[DeadLetter] = []
    for looked, letter in enumerate(_merged(sought, _place(cursor), step), 1):
        if sought.fits(letter):
            found.append(letter)
        if len(found) == count or looked == _LOOK_MOST:
            ms, seq, topic = _order_of(sought)(letter)
            return found, _closed([ms, int(seq), topic])
    return found, None


def every_letter(sought: Sought) -> Iterator[DeadLetter]:
    """All sought letters, the newest first, read step by step: for files."""
    return filter(sought.fits, _merged(sought, None, _LEAF))


def _merged(
    sought: Sought, after: tuple[int, int, str] | None, step: int
) -> Iterator[DeadLetter]:
    """Letters of the topics, alike and not too old, the newest first.

    Each is read about once, however many topics they are of: `step` of each topic at a
    time, and the next only where their turn comes.
    """
    topics = [_read(sought, topic, after, step) for topic in sought.topics]
    return heapq.merge(*topics, key=_order_of(sought), reverse=True)


def with_letters() -> tuple[str, ...]:
    """Topics that have dead letters, asked in two round trips."""
    return tuple(dead.counts())


def _read(
    sought: Sought, topic: str, after: tuple[int, int, str] | None, step: int
) -> Iterator[DeadLetter]:
    """Letters of one topic, `step` at a time, down to those that died too early."""
    before: str | None = None
    if after is not None:
        ms, seq, of_topic = after
        # Below the cursor in the order of all topics: an id that several share is
        # still to come from those whose names sort below.
        before = f"{ms}-{seq}"
        if topic < of_topic:  # what comes right above it, by text or by number
            before = f"{ms}-{seq}0" if sought.group else f"{ms}-{seq + 1}"
    while True:
        letters, ids = _some(topic, sought.group, step, before)
        for letter in letters:
            if sought.passed(letter):
                return
            yield letter
        if len(ids) < step:
            return
        before = ids[-1]


def _some(
    topic: str, group: str | None, step: int, before: str | None
) -> tuple[list[DeadLetter], list[str]]:
    """The next letters, and the ids they were read by: some may have left since."""
    if group is None:
        letters = bus.list_dead(topic, step, before or "+")
        return letters, [letter.entry_id for letter in letters]
    [ids] = alike.list_ids(group, [Ask(topic, step, before=before)])
    return alike.read([(topic, sid) for sid in ids]), ids


def _order_of(sought: Sought) -> Callable[[DeadLetter], _Place]:
    """In which letters are read: those that failed alike lie in an index which has the
    ids of one millisecond by their text, so that 9 comes before 10."""
    kind: Callable[[str], Any] = int if sought.group is None else str

    def order(letter: DeadLetter) -> _Place:
        ms, _, seq = letter.entry_id.partition("-")
        return int(ms), kind(seq), letter.topic

    return order


def _place(cursor: str | None) -> tuple[int, int, str] | None:
    if cursor is None:
        return None
    match _opened(cursor):
        case [int(ms), int(seq), str(topic)] if 0 <= ms < 2**63 and 0 <= seq < 2**63:
            return ms, seq, topic
    raise _odd(cursor)
