"""`python -m bench.scenarios`: where much else goes on, in one table."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import machine, program, report, runs, stage
from bench.__main__ import count
from bench.figures import Figure
from bench.report import Pair, Row

from . import full, idle_agents, two_agents, work
from .sizes import Sizes

RUNS: Final = 3
SCENARIOS: Final = {
    "two_agents": two_agents,
    "idle_agents": idle_agents,
    "full": full,
    "work": work,
}
# Fewer measure nothing.
LEAST: Final = {"tasks": 100, "backlog": 1, "topics": 1, "dead": 1, "agents": 1}
NOTES: Final = (
    "raw: one agent for two of them (they scale until the server's CPU is at 100%, or\n"
    "all CPUs are); no agent for idle ones; an empty server, in turns, for full ones;\n"
    "what clock and CPUs can give for handlers that wait or compute; a bare consumer\n"
    "for large payloads.\n"
    "stolen, others: % of all CPU time, per run, that went to the host's other\n"
    "guests, to processes that are not of the benchmark."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a check finds a floor missed, 69 without a server."""
    options = _options(argv)
    return program.ended("bench.scenarios", lambda: _program(options))


def _program(options: argparse.Namespace) -> int:
    sizes = Sizes(**{each.name: getattr(options, each.name) for each in fields(Sizes)})
    with stage.opened(None) as here:
        rows = runs.measured(
            here, chosen(options.only, sizes), options.runs, sizes.tasks
        )
        machine_now = machine.describe(here.server)
    _show(rows, machine_now, sizes)
    if options.json:
        facts = report.as_dict(rows, machine_now, sizes.tasks)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    missed = options.check and any(row.verdict == report.MISSED for row in rows)
    return 1 if missed else 0


def chosen(names: Sequence[str] | None, sizes: Sizes) -> list[Figure]:
    """The scenarios of these names, all without, as figures of this size."""
    found = []
    for name, room in SCENARIOS.items():
        if not names or name in names:
            run = functools.partial(_run, room.run, sizes)
            found.append(Figure(name, room.rows, run))
    return found


def _run(
    run: Callable[[stage.Stage, Sizes], dict[str, Pair]],
    sizes: Sizes,
    here: stage.Stage,
    tasks: int,
) -> dict[str, Pair]:
    """A scenario, called as a figure is; its own sizes have the tasks as well."""
    return run(here, sizes)


def _show(rows: Sequence[Row], machine_now: machine.Machine, sizes: Sizes) -> None:
    console = Console()
    size = ", ".join(
        f"{getattr(sizes, each.name):,} {each.name}" for each in fields(Sizes)
    )
    about = f"{machine_now.line()}\n{size}\n"
    for part in (about, report.table(rows), f"\n{NOTES}"):
        console.print(part, highlight=False, soft_wrap=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scenarios",
        description="Measures the mesh where much else goes on, on a server of its own "
        "in a temporary folder.",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=SCENARIOS,
        help="one scenario; may be repeated",
    )
    parser.add_argument(
        "--runs", type=count(1), default=RUNS, help=f"of each scenario ({RUNS})"
    )
    usual = Sizes()
    for name, least in LEAST.items():
        value = getattr(usual, name)
        parser.add_argument(
            f"--{name}", type=count(least), default=value, help=f"({value:,})"
        )
    parser.add_argument(
        "--idle-s",
        type=count(1),
        default=usual.idle_s,
        help=f"how long idle agents are watched ({usual.idle_s:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures there")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a floor is missed"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
