"""Pages of lists: cursors for rows that have an order, dead letters of every topic."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar

from bus import abreast, alike, browse, dead
from bus.abreast import Ask
from bus.letters import DeadLetter
from bus.sought import Sought

from .problems import Problem

T = TypeVar("T")
_Place = tuple[int, Any, str]  # of a letter in its list: when, which then, whose
_LOOK_MOST: Final = 5_000  # letters that one page looks at
_LEAF: Final = 50  # letters that are read at once: each may have a mebibyte
_LEAST: Final = 5  # of one topic, where there are many
_BOUND_BYTES: Final = 16 * 2**20  # of a page; a thousand large letters fill a memory


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
    return found[:count], browse.sealed(last) if last else None


def _behind(name: str, cursor: str) -> list[Any]:
    match _opened(cursor):
        case [str(of), *key] if of == name:
            return key
    raise _odd(cursor)


def _opened(cursor: str) -> list[Any]:
    """The key in a cursor, or Problem: it came from outside."""
    try:
        value = browse.unsealed(cursor)
    except ValueError:
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

    A look has a bound: a page may be short where few of many letters fit, or where they
    are large (what goes beyond 16 MiB is the last of it), and goes on behind its
    cursor.
    """
    found: list[DeadLetter] = []
    size = 0
    step = min(count, _LEAF)
    for looked, letter in enumerate(_merged(sought, _place(cursor), step), 1):
        if sought.fits(letter):
            found.append(letter)
            size += _size(letter)
        if len(found) == count or looked == _LOOK_MOST or size > _BOUND_BYTES:
            ms, seq, topic = _order_of(sought)(letter)
            return found, browse.sealed([ms, int(seq), topic])
    return found, None


def every_letter(sought: Sought) -> Iterator[DeadLetter]:
    """All sought letters, the newest first, read step by step: for files."""
    return filter(sought.fits, _merged(sought, None, _LEAF))


def _merged(
    sought: Sought, after: tuple[int, int, str] | None, step: int
) -> Iterator[DeadLetter]:
    """Letters of the topics, alike and not too old, the newest first.

    Each is read about once, however many topics they are of: the first of all topics
    together, and the next of a topic only where their turn comes.
    """
    many = max(1, len(sought.topics))
    few = max(1, step // many)
    asks = [
        Ask(topic, few, before=_before(sought, topic, after)) for topic in sought.topics
    ]
    begun = _some(sought.group, asks)
    if few < min(_LEAST, step):
        size = sum(_size(letter) for letters, _ in begun for letter in letters)
        if size * _LEAST <= _BOUND_BYTES:  # else of each the newest must do
            asks = [replace(ask, count=_LEAST) for ask in asks]
            begun = _some(sought.group, asks)
    topics = [
        _read(sought, ask, max(_LEAST, few), *some)
        for ask, some in zip(asks, begun, strict=True)
    ]
    return heapq.merge(*topics, key=_order_of(sought), reverse=True)


def _size(letter: DeadLetter) -> int:
    return sum(map(len, letter.raw.values()))


def with_letters() -> tuple[str, ...]:
    """Topics that have dead letters, asked in two round trips."""
    return tuple(dead.counts())


def _before(
    sought: Sought, topic: str, after: tuple[int, int, str] | None
) -> str | None:
    """Below which entry id the letters of a topic come, None from the newest.

    Below the cursor in the order of all topics: an id that several share is still to
    come from those whose names sort below.
    """
    if after is None:
        return None
    ms, seq, of_topic = after
    if topic < of_topic:  # what comes right above it, by text or by number
        return f"{ms}-{seq}0" if sought.group else f"{ms}-{seq + 1}"
    return f"{ms}-{seq}"


def _read(
    sought: Sought, ask: Ask, step: int, letters: list[DeadLetter], ids: list[str]
) -> Iterator[DeadLetter]:
    """Letters of one topic, down to those that died too early: these first ones, then
    `step` at a time."""
    while True:
        for letter in letters:
            if sought.passed(letter):
                return
            yield letter
        if len(ids) < ask.count:
            return
        ask = Ask(ask.topic, step, before=ids[-1])
        [(letters, ids)] = _some(sought.group, [ask])


def _some(
    group: str | None, asks: list[Ask]
) -> list[tuple[list[DeadLetter], list[str]]]:
    """Of each topic the next letters, and the ids they were read by: some may have left
    since. In one round trip, or in two for letters that failed alike."""
    if group is None:
        rows = abreast.dead(asks)
        return [([made() for _, made in of], [sid for sid, _ in of]) for of in rows]
    ids = alike.list_ids(group, asks) if asks else []
    asked = zip(asks, ids, strict=True)
    found: dict[str, list[DeadLetter]] = {ask.topic: [] for ask in asks}
    for letter in alike.read([(ask.topic, sid) for ask, of in asked for sid in of]):
        found[letter.topic].append(letter)
    return [(found[ask.topic], of) for ask, of in zip(asks, ids, strict=True)]


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
