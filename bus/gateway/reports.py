"""What the gateway does, told by all web processes and agents: figures, who generates.

Figures are of the last hour, in a ring of minutes on the server's clock, and of a fixed
size however many models and callers there are. Generations are told while they run, so
that they can be seen and ended from any process; of a process that dies they are gone
after 3 s. Neither holds an answer up: what cannot be told is not, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from .. import connection, errors, failures, records, refusals, replies, scripts
from . import keys

log = logging.getLogger(__name__)

MINUTES: Final = 60
QUEUED: Final = "queued"  # for a place
RUNNING: Final = "running"
_HOLD_MS: Final = 3_000
# Shorter than that a generation is over before anybody could look at it.
_EVERY_S: Final = 0.5
_RETRY_S: Final = 1.0
_BUCKETS: Final = 22  # the last one is for half an hour and more
_ROW_MOST: Final = 1e12  # a model server's counts are its own; ours stay whole numbers
# In this order in a row of the ring, each bucket of both histograms behind them.
COUNTS: Final = (
    *("hit", "miss", "join", "bypass"),
    *("failed", "left", "ended", "limited", "tokens", "tokens_ms"),
)


@dataclass(frozen=True, slots=True)
class About:
    """Whose generation it is, of which model, and how many bytes were asked."""

    owner: str
    model: str
    size: int


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a flight: counts by name, and how long it took if it generated."""

    counts: dict[str, int]
    first_s: float | None = None
    whole_s: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A generation that runs or waits to: its row as it is now, how to end it."""

    row: Callable[[], dict[str, Any]]
    stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """The last hour of all processes; times are right to a doubling."""

    counts: dict[str, int]
    first: Counter[int] = field(default_factory=Counter)
    whole: Counter[int] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Requests that got an answer, from wherever."""
        return sum(self.counts[name] for name in ("hit", "miss", "join", "bypass"))

    @property
    def spared(self) -> float | None:
        """The share of them that cost no call of the model; None without any."""
        spared = self.counts["hit"] + self.counts["join"]
        return spared / self.answered if self.answered else None

    @property
    def tokens_per_s(self) -> float | None:
        """How fast the model makes tokens; None where it does not tell."""
        took_ms = self.counts["tokens_ms"]
        return self.counts["tokens"] * 1000 / took_ms if took_ms else None

    def first_ms(self, share: float) -> int | None:
        """In how long this share of the generations had a first line, at most."""
        return failures.quantile(self.first, share)

    def whole_ms(self, share: float) -> int | None:
        """In how long this share of the generations was complete, at most."""
        return failures.quantile(self.whole, share)


class Roll:
    """The generations of one event loop, told while there are any."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._telling: asyncio.Task[None] | None = None

    def enter(self, generation: str, entry: Entry) -> None:
        """It is queued or runs from now on."""
        self._entries[generation] = entry
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    def leave(self, generation: str) -> None:
        """It has ended. One sign of life may be on its way and outlast it by 3 s."""
        self._entries.pop(generation, None)

    async def _tell(self) -> None:
        await asyncio.sleep(_EVERY_S)
        while self._entries:
            args: list[Any] = [_HOLD_MS]
            for generation, entry in self._entries.items():
                args += [generation, orjson.dumps(entry.row())]
            for generation in await _run("generating", args, [keys.RUNNING]) or ():
                if entry_of := self._entries.get(generation):
                    entry_of.stop()
            await asyncio.sleep(_EVERY_S)


async def came(generation: str, what: Came) -> None:
    """Count what came of a flight, and take it off those that run."""
    counts = [int(min(what.counts.get(name, 0), _ROW_MOST)) for name in COUNTS]
    args = [generation, *counts, *_bucketed(what.first_s), *_bucketed(what.whole_s)]
    await _run("generated", args, [keys.FIGURES, keys.RUNNING])


def figures() -> Figures:
    """The last hour; raises BusUnavailable, or DamagedKey for what is no ring."""
    with refusals.guard():
        client = connection.reader()
        now = int(client.time()[0]) // 60
        ring: dict[str, str] = client.hgetall(keys.FIGURES)
    total = [0] * (len(COUNTS) + 2 * _BUCKETS)
    for text in ring.values():
        row = text.split()
        if len(row) != len(total) + 1 or None in map(records.number, row):
            continue  # somebody else's, or of another version
        if now - MINUTES < int(row[0]) <= now:
            total = [sum(pair) for pair in zip(total, map(int, row[1:]), strict=True)]
    spans = total[len(COUNTS) :]
    return Figures(
        dict(zip(COUNTS, total, strict=False)),
        Counter(dict(enumerate(spans[:_BUCKETS]))),
        Counter(dict(enumerate(spans[_BUCKETS:]))),
    )


def running() -> list[dict[str, Any]]:
    """What runs or is queued now: `id, owner, model, size, lines, waiting, state, s,
    host, pid, ending`; those that have been for half a second. What runs comes first,
    and of each state the longest, `s` in it."""
    with refusals.guard():
        client = connection.reader()
        now_ms = replies.clock_ms(client.time())
        told: dict[str, str] = client.hgetall(keys.RUNNING)
    found = []
    for generation, text in told.items():
        head, _, rest = text.partition("|")
        mark, _, row = rest.partition("|")
        until = records.number(head)
        if until is None or until < now_ms:
            continue
        try:
            found.append({**orjson.loads(row), "id": generation, "ending": mark == "1"})
        except (ValueError, TypeError):
            continue  # written by hand
    return sorted(found, key=lambda r: (r.get("state") == QUEUED, -_seconds(r)))


def stop(generation: str) -> bool:
    """Have a generation end, in whichever process it runs; False if it does not."""
    reply = scripts.run("stop_generation", "", [generation], [keys.RUNNING])
    return bool(reply)


def here() -> dict[str, Any]:
    """The facts of this process in a row."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


async def _run(verb: str, args: Sequence[Any], names: list[str]) -> Any:
    wire = connection.awire()
    try:
        return await scripts.arun(verb, "", args, names, client=wire, retry_s=_RETRY_S)
    except errors.BusError as exc:
        log.warning("what the gateway does is not told: %s", exc)
        return None


def _bucketed(took_s: float | None) -> list[int]:
    buckets = [0] * _BUCKETS
    if took_s is not None:
        buckets[min(max(0, int(took_s * 1000)).bit_length(), _BUCKETS - 1)] = 1
    return buckets


def _seconds(row: dict[str, Any]) -> float:
    took = row.get("s")
    return float(took) if isinstance(took, int | float) else 0.0
