"""What the attacks of one run came to: each suite records, the end prints one table.

A pytest plugin. In a chaos run (`-m chaos`) it picks the run's seed unless
MESH_CHAOS_SEED names one, so that every test process follows the same, and it collects
what the suites record, in a folder, since under xdist they run in processes of their
own. The table goes to the terminal and, for the README, into `.chaos/last-run.md`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent.parent
REPORT: Final = ROOT / ".chaos" / "last-run.md"
FOLDER_VAR: Final = "MESH_CHRONICLE"
SEED_VAR: Final = "MESH_CHAOS_SEED"

# Figure -> heading. Counts of one suite add up; of times the longest stays. A suite
# leaves out what it does not measure, and the table says so with a dash.
FIGURES: Final = {
    "tasks": "tasks",
    "executions": "executions",
    "fenced": "fenced",
    "refused": "duplicates refused",
    "hand_overs": "hand-overs",
    "slowest_s": "slowest hand-over",
    "lost": "lost",
    "double": "double results",
    "repaired": "repaired",
}
_LONGEST: Final = frozenset({"slowest_s"})


def seed() -> int:
    """The seed of this run: MESH_CHAOS_SEED, or one that this process picks once."""
    if not int(os.environ.get(SEED_VAR) or 0):
        os.environ[SEED_VAR] = str(random.SystemRandom().randrange(1, 1_000_000))
    return int(os.environ[SEED_VAR])


def record(
    suite: str, *, faults: Mapping[str, int] | None = None, **figures: float
) -> None:
    """Add figures of one attack to the run's table; nothing outside a chaos run.

    `suite` is its line, such as "S5 storm". `faults` counts what was done to the mesh,
    by kind. `figures` are those of FIGURES; ValueError names one that is not, because a
    figure under a wrong name would be missing from the table without a word.
    """
    unknown = sorted(set(figures) - set(FIGURES))
    if unknown:
        raise ValueError(f"no such figures: {unknown}; there are {sorted(FIGURES)}")
    folder = os.environ.get(FOLDER_VAR)
    if not folder:
        return
    said = {"suite": suite, "faults": dict(faults or {}), "figures": figures}
    # A file per record: no two processes ever write to the same one.
    (Path(folder) / f"{uuid.uuid4().hex}.json").write_text(json.dumps(said))


def read(folder: Path) -> list[dict[str, Any]]:
    """Everything recorded into a folder, in no order."""
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def table(records: Iterable[Mapping[str, Any]], run_seed: int) -> str:
    """One Markdown line per suite, in the order of their names, and what was done."""
    sums: dict[str, Counter[str]] = {}
    faults: dict[str, Counter[str]] = {}
    for each in records:
        line = sums.setdefault(each["suite"], Counter())
        faults.setdefault(each["suite"], Counter()).update(each["faults"])
        for name, value in each["figures"].items():
            line[name] = (
                max(line[name], value) if name in _LONGEST else line[name] + value
            )
    rows = [["suite", "faults", *FIGURES.values()]]
    rows.append(["---"] + ["--:"] * (len(FIGURES) + 1))
    for suite in sorted(sums, key=_place):
        shown = [_shown(name, sums[suite]) for name in FIGURES]
        rows.append([suite, f"{faults[suite].total():,}", *shown])
    lines = [f"Seed {run_seed}.", ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    kinds = [
        f"* {suite}: "
        + ", ".join(f"{n:,} × {kind}" for kind, n in sorted(done.items()))
        for suite, done in sorted(faults.items(), key=lambda item: _place(item[0]))
        if done
    ]
    return "\n".join([*lines, "", *kinds, ""])


def _place(suite: str) -> tuple[int, str]:
    """S2 stands before S10."""
    number = suite.partition(" ")[0].removeprefix("S")
    return (int(number) if number.isdigit() else 1_000, suite)


def _shown(name: str, line: Mapping[str, float]) -> str:
    if name not in line:
        return "–"
    return f"{line[name]:.1f} s" if name in _LONGEST else f"{line[name]:,.0f}"


# --- the plugin


def _is_chaos_run(config: pytest.Config) -> bool:
    wanted = str(config.option.markexpr)
    return "chaos" in wanted and "not chaos" not in wanted


def pytest_configure(config: pytest.Config) -> None:
    """Before xdist starts its processes, which inherit seed and folder."""
    if hasattr(config, "workerinput") or not _is_chaos_run(config):
        return
    seed()
    os.environ[FOLDER_VAR] = tempfile.mkdtemp(prefix="mesh-chronicle-")


def pytest_report_header(config: pytest.Config) -> str | None:
    """How to repeat this run."""
    if not _is_chaos_run(config):
        return None
    return f"chaos: {SEED_VAR}={seed()} repeats this run's schedules"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, on the screen and in the report file."""
    folder = os.environ.get(FOLDER_VAR)
    if not folder or not _is_chaos_run(config):
        return
    records = read(Path(folder))
    if records:
        text = table(records, seed())
        terminalreporter.section("what the attacks came to")
        terminalreporter.write_line(text)
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(text)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave no folder behind."""
    if not hasattr(config, "workerinput") and (
        folder := os.environ.pop(FOLDER_VAR, "")
    ):
        shutil.rmtree(folder, ignore_errors=True)
