"""Entries of many topics' streams, read in one round trip however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import history, keys, letters, volley


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of one topic: entries within two exclusive bounds, None for no
    bound; the newest first, or the oldest first with `after`."""

    topic: str
    count: int
    after: str | None = None
    before: str | None = None


# An entry id with what makes the item: of most entries nobody sees more than the id.
Found = tuple[str, Callable[[], Any]]


def results(asks: Sequence[Ask]) -> list[list[Found]]:
    """Of each topic result rows as `results.page` has them, and their `entry_id` and
    `topic`, since a row written by hand may name another topic, or none."""
    names = [keys.result_stream(ask.topic) for ask in asks]
    return [
        [(sid, partial(_row, ask.topic, sid, fields)) for sid, fields in rows]
        for ask, rows in zip(asks, _read(names, asks), strict=True)
    ]


def dead(asks: Sequence[Ask]) -> list[list[Found]]:
    """Of each topic dead letters."""
    names = [keys.dead_stream(ask.topic) for ask in asks]
    parse = letters.parse_letter
    return [
        [(sid, partial(parse, ask.topic, sid, fields)) for sid, fields in rows]
        for ask, rows in zip(asks, _read(names, asks), strict=True)
    ]


def _row(topic: str, entry_id: str, fields: dict[str, str]) -> dict[str, Any]:
    return {**history.row_of(fields), "entry_id": entry_id, "topic": topic}


def _read(
    names: Sequence[str], asks: Sequence[Ask]
) -> list[list[tuple[str, dict[str, str]]]]:
    """The entries of these streams that the asks want."""
    commands: list[tuple[Any, ...]] = []
    for name, ask in zip(names, asks, strict=True):
        low = "-" if ask.after is None else keys.above(keys.check_entry(ask.after))
        top = "+" if ask.before is None else keys.below(keys.check_entry(ask.before))
        if ask.after is None:
            commands.append(("XREVRANGE", name, top, low, "COUNT", ask.count))
        else:
            commands.append(("XRANGE", name, low, top, "COUNT", ask.count))
    return [
        [(sid, dict(zip(flat[::2], flat[1::2], strict=True))) for sid, flat in rows]
        for rows in volley.ask(commands)
    ]
