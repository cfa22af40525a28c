"""The runs of figures, one after the other, with a bar that shows how far they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from rich import progress
from rich.console import Console

from . import machine
from .figures import Figure
from .report import Row
from .stage import Stage

# Drawing the bar takes some ms from what is measured: seldom enough for a p99.
_BARS_PER_S: Final = 1


def measured(here: Stage, chosen: Sequence[Figure], runs: int, tasks: int) -> list[Row]:
    """Every run of every figure, with what else the machine did meanwhile."""
    rows: list[Row] = []
    screen = Console(stderr=True)
    shown = progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        console=screen,
        refresh_per_second=_BARS_PER_S,
        transient=True,
        disable=not screen.is_terminal,
    )
    with shown:
        bar = shown.add_task("", total=len(chosen) * runs)
        for figure in chosen:
            mine = figure.rows()
            rows += mine
            for run in range(runs):
                what = f"{figure.name}, run {run + 1} of {runs}"
                shown.update(bar, description=what)
                if not screen.is_terminal:
                    print(what, file=sys.stderr, flush=True)
                before = machine.ticks()
                pairs = figure.run(here, tasks)
                load = machine.load(before, machine.ticks())
                for row in mine:
                    row.pairs.append(pairs[row.name])
                    row.loads.append(load)
                shown.advance(bar)
    return rows
