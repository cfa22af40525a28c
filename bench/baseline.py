"""What an earlier run came to, kept as ratios to its own raw limit.

Absolute figures tell of the machine; the ratio to what redis-py alone did in the same
run tells of us, and can be held against that of another day and another machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .machine import Machine
from .report import Row
from .stage import BenchError

PATH: Final = Path(__file__).resolve().parent / "baseline.json"
LEAST: Final = 0.7  # of the kept ratio: less is more than a busy neighbour explains


def keep(path: Path, rows: Sequence[Row], machine: Machine, tasks: int) -> None:
    """Write the ratios of this run, with what they were measured on."""
    facts = {
        "machine": machine.as_dict(),
        "tasks": tasks,
        "runs": max(len(row.pairs) for row in rows),
        "ratios": {row.name: round(row.ratio, 3) for row in rows},
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def kept(path: Path) -> Mapping[str, float]:
    """The ratios of an earlier run, by figure; BenchError where there are none."""
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(ratio) for name, ratio in facts["ratios"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BenchError(f"{path} is no baseline: {exc!r}") from None


def fallen(rows: Sequence[Row], before: Mapping[str, float]) -> list[str]:
    """A sentence for each figure that is much worse than it was.

    A figure that the baseline does not know is not judged.
    """
    said = []
    for row in rows:
        was = before.get(row.name)
        if not was:
            continue
        # Of rates more is better, of times and bytes less.
        share = row.ratio / was if row.unit == "/s" else was / row.ratio
        if share < LEAST:
            said.append(
                f"{row.title.strip()}: {row.ratio:.2f} of the raw limit, it was "
                f"{was:.2f}: {share:.0%} of what it was, at least {LEAST:.0%} is asked"
            )
    return said
