"""`python -m bench.rivals`: install the others, measure all in turns, print a table."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import machine, raw, stage

from . import contenders, measure

TASKS: Final = 20_000
RUNS: Final = 5
LABELS: Final = {
    "enqueue": "enqueue /s",
    "enqueue_many": "enqueue many /s",
    "drain": "drain /s",
    "trip_p50": "round trip p50 ms",
    "trip_p99": "p99 ms",
    "memory": "bytes per task",
}
Turns = dict[str, list[measure.Turn]]


def main() -> int:
    """The exit code: 69 if nothing could be measured."""
    options = _options()
    screen = Console(stderr=True)
    # A kill ends the workers as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ready = []
    for name in options.only or contenders.NAMES:
        screen.print(f"preparing {name}")
        try:
            ready.append(contenders.prepare(name))
        except contenders.NotHere as exc:
            screen.print(f"{name} does not take part: {exc}")
    turns: Turns = defaultdict(list)
    bare: list[float] = []
    before = machine.ticks()
    with stage.opened(None) as here:
        for run in range(options.runs):
            bare.append(_bare(here, options.tasks))
            for one in ready:
                screen.print(f"run {run + 1} of {options.runs}: {one.name}")
                try:
                    turn = measure.turn(one, here.client, here.url, options.tasks)
                except measure.Failed as exc:
                    screen.print(f"{one.name} failed: {exc}")
                    continue
                turns[one.name].append(turn)
        described = machine.describe(here.server)
    load = machine.load(before, machine.ticks())
    _show(turns, bare, options, described.line(), load)
    if options.json:
        options.json.write_text(json.dumps(_facts(turns, bare, load), indent=2) + "\n")
    return 0 if turns else 69


def _bare(here: stage.Stage, count: int) -> float:
    """What a bare consumer drains per second on the same server."""
    with here.streams() as pair:
        raw.send_piped_s(here.client, pair.tasks, raw.items(range(count)))
        with here.consumer(pair) as consumer:
            consumer.until(lambda: int(here.client.xlen(pair.results)), count)
        return raw.finished_per_s(here.client, pair.results)


def _median(turns: list[measure.Turn], field: str) -> float:
    return statistics.median(getattr(turn, field) for turn in turns)


def _show(
    turns: Turns,
    bare: list[float],
    options: argparse.Namespace,
    where: str,
    load: machine.Load | None,
) -> None:
    table = Table(title=f"{options.tasks:,} tasks, medians of {options.runs}")
    table.add_column("")
    for label in LABELS.values():
        table.add_column(label, justify="right")
    for name, mine in turns.items():
        cells = [_median(mine, field) for field in LABELS]
        table.add_row(name, *(f"{x:,.2f}" if x < 100 else f"{x:,.0f}" for x in cells))
    out = Console()
    out.print(table)
    out.print(f"a bare redis-py consumer drains {statistics.median(bare):,.0f} /s")
    out.print(where)
    if load:
        out.print(f"stolen {load.stolen:.1%}, others {load.others:.1%} of all CPU time")


def _facts(
    turns: Turns, bare: list[float], load: machine.Load | None
) -> dict[str, object]:
    names = [field.name for field in fields(measure.Turn)]
    return {
        "bare_drain": statistics.median(bare),
        "load": asdict(load) if load else None,
        "medians": {
            name: {field: _median(mine, field) for field in names}
            for name, mine in turns.items()
        },
        "turns": {
            name: [asdict(turn) for turn in mine] for name, mine in turns.items()
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals", description=__doc__.partition(": ")[2]
    )
    parser.add_argument("--only", action="append", choices=contenders.NAMES)
    parser.add_argument(
        "--tasks", type=int, default=TASKS, help=f"per turn ({TASKS:,})"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each ({RUNS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
