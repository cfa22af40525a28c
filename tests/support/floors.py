"""Fails where too little of `bus/` and `dashboard/` ran: `make coverage`.

Lines and branches have floors of their own: one figure of both hides in the many lines
that a branch is never taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LINES, BRANCHES = 95.0, 92.0  # per cent


def shares(totals: dict[str, Any]) -> tuple[float, float]:
    """Which per cent of lines and of branches ran, by the report of coverage."""
    lines = totals["covered_lines"] / totals["num_statements"]
    branches = totals["covered_branches"] / totals["num_branches"]
    return 100 * lines, 100 * branches


def verdict(totals: dict[str, Any]) -> tuple[str, bool]:
    """Both beside their floors, and whether both stand on them."""
    lines, branches = shares(totals)
    said = f"lines {lines:.1f} % (floor {LINES:g}), "
    said += f"branches {branches:.1f} % (floor {BRANCHES:g})"
    return said, lines >= LINES and branches >= BRANCHES


def main() -> int:
    """1 below a floor."""
    command = [sys.executable, "-m", "coverage", "json", "-q", "-o", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said, well = verdict(json.loads(done.stdout)["totals"])
    print(said if well else f"too little ran: {said}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
