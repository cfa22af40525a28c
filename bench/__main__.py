"""`python -m bench`: measure, then print one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from . import baseline, machine, program, report, runs, stage
from .figures import FIGURES

TASKS: Final = 20_000
RUNS: Final = 3
RUNS_FULL: Final = 5


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a check finds a figure too low, 69 without a server."""
    options = _options(argv)
    return program.ended("bench", lambda: _program(options))


def _program(options: argparse.Namespace) -> int:
    chosen = [each for each in FIGURES if not options.only or each.name in options.only]
    times = options.runs or (RUNS_FULL if options.full else RUNS)
    before = baseline.kept(options.against) if options.against else {}
    with stage.opened(options.url) as here:
        rows = runs.measured(here, chosen, times, options.tasks)
        machine_now = machine.describe(here.server)
    report.show(rows, machine_now, options.tasks, Console())
    if options.json:
        facts = report.as_dict(rows, machine_now, options.tasks)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    if options.keep:
        baseline.keep(options.keep, rows, machine_now, options.tasks)
    fallen = baseline.fallen(rows, before)
    for said in fallen:
        print(f"slower: {said}", file=sys.stderr)
    missed = options.check and any(row.verdict == report.MISSED for row in rows)
    return 1 if missed or fallen else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the mesh on a server of its own in a temporary folder, "
        "each figure beside what redis-py alone does on the same server.",
    )
    names = [figure.name for figure in FIGURES]
    parser.add_argument(
        "--only", action="append", choices=names, help="one figure; may be repeated"
    )
    parser.add_argument(
        "--tasks", type=count(100), default=TASKS, help=f"per run ({TASKS:,})"
    )
    parser.add_argument("--runs", type=count(1), help=f"of each figure ({RUNS})")
    parser.add_argument("--full", action="store_true", help=f"{RUNS_FULL} runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures there")
    parser.add_argument("--url", help="a running server, redis://…, instead of our own")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a floor is missed"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help=f"exit with 1 when a ratio is below {baseline.LEAST:g} of that there",
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep the ratios there"
    )
    return parser.parse_args(argv)


def count(least: int) -> Callable[[str], int]:
    """A number for argparse, with its lower bound."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
