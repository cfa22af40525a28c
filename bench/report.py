"""From the runs of a figure to its row: medians, ratio, verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from . import payloads
from .machine import Load, Machine

HELD = "ok"
MISSED = "MISSED"
UNJUDGED = "-"


@dataclass(frozen=True, slots=True)
class Floor:
    """What a figure must reach: a ratio to the raw limit, or a value of its own."""

    limit: float
    at_least: bool
    of_ratio: bool = True

    def holds(self, ours: float, ratio: float) -> bool:
        """Whether it is reached; exactly on it is."""
        measured = ratio if self.of_ratio else ours
        return measured >= self.limit if self.at_least else measured <= self.limit

    @property
    def text(self) -> str:
        """For eyes: `>= 0.5x` of the raw limit, or `<= 400`."""
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g}{'x' * self.of_ratio}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Ours and the raw limit, measured side by side."""

    ours: float
    raw: float

    @property
    def ratio(self) -> float:
        """Ours as a multiple of raw."""
        return self.ours / self.raw if self.raw else math.inf


@dataclass(slots=True)
class Row:
    """One line of the table with the runs behind it."""

    name: str
    title: str
    unit: str
    floor: Floor | None = None
    pairs: list[Pair] = field(default_factory=list)
    loads: list[Load | None] = field(default_factory=list)

    @property
    def ours(self) -> float:
        """Median of the runs."""
        return statistics.median(pair.ours for pair in self.pairs)

    @property
    def raw(self) -> float:
        """Median of the runs."""
        return statistics.median(pair.raw for pair in self.pairs)

    @property
    def ratio(self) -> float:
        """Median of the runs' own ratios: a neighbour slows both halves of a run."""
        return statistics.median(pair.ratio for pair in self.pairs)

    @property
    def verdict(self) -> str:
        """Whether the floor is held."""
        if self.floor is None:
            return UNJUDGED
        return HELD if self.floor.holds(self.ours, self.ratio) else MISSED


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share (0 to 1) of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def table(rows: Sequence[Row]) -> Table:
    """All rows, within 80 columns."""
    drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("figure", no_wrap=True)
    for name in ("ours", "raw", "ratio"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for name in ("floor", "verdict", "stolen", "others"):
        drawn.add_column(name, no_wrap=True)
    colours = {HELD: "green", MISSED: "bold red"}
    for row in rows:
        verdict, colour = row.verdict, colours.get(row.verdict, "dim")
        drawn.add_row(
            f"{row.title}, {row.unit}",
            number(row.ours),
            number(row.raw),
            f"{row.ratio:.2f}",
            row.floor.text if row.floor else UNJUDGED,
            f"[{colour}]{verdict}[/]",
            _percents([load.stolen if load else None for load in row.loads]),
            _percents([load.others if load else None for load in row.loads]),
        )
    return drawn


def number(value: float) -> str:
    """Three digits at least, without noise behind them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percents(shares: Sequence[float | None]) -> str:
    return " ".join(
        UNJUDGED if share is None else f"{share * 100:.0f}" for share in shares
    )


def show(rows: Sequence[Row], machine: Machine, tasks: int, console: Console) -> None:
    """The table with what one must know to read it."""
    runs = max(len(row.pairs) for row in rows)
    many = f"medians of {runs} interleaved runs" if runs > 1 else "one run"
    notes = (
        f"{tasks:,} tasks of {payloads.SIZE_BYTES} bytes, one agent process; {many}.\n"
        "raw: what redis-py alone does on the same server in the same run.\n"
        "ratio: ours / raw, median of each run's own; floors with x are for it.\n"
        "stolen, others: % of all CPU time, per run, that went to the host's other\n"
        "guests, to processes that are not of the benchmark."
    )
    for part in (f"{machine.line()}\n", table(rows), f"\n{notes}"):
        console.print(part, highlight=False, soft_wrap=True)


def as_dict(rows: Sequence[Row], machine: Machine, tasks: int) -> dict[str, Any]:
    """The same for programs."""
    return {
        "machine": machine.as_dict(),
        "tasks": tasks,
        "figures": {row.name: _row_dict(row) for row in rows},
    }


def _row_dict(row: Row) -> dict[str, Any]:
    runs = [
        {
            "ours": pair.ours,
            "raw": pair.raw,
            "ratio": pair.ratio,
            "stolen": load.stolen if load else None,
            "others": load.others if load else None,
        }
        for pair, load in zip(row.pairs, row.loads, strict=True)
    ]
    return {
        "unit": row.unit,
        "ours": row.ours,
        "raw": row.raw,
        "ratio": row.ratio,
        "floor": asdict(row.floor) if row.floor else None,
        "verdict": row.verdict,
        "runs": runs,
    }
