"""The demo: the whole standard library through two agents, and what came of it."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshsite.settings")
django.setup()

from rich.console import Console  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

import bus  # noqa: E402
from examples.stdlib_metrics import corpus, follow, mesh  # noqa: E402

TOPIC = "stdlib"
STALLED_S = 120.0


def main() -> int:
    """Feed the mesh that runs here, or one started for the demo; 0 if all added up."""
    console = Console(highlight=False)
    payloads = list(corpus.iter_corpus())
    try:
        with mesh.under(console, TOPIC):
            return _demo(console, payloads)
    except bus.BusError as exc:
        console.print(f"The demo cannot go on: {exc}", style="bold red", markup=False)
        return 69
    except KeyboardInterrupt:
        console.print("Stopped; what was sent stays in the mesh.")
        return 130


def _demo(console: Console, payloads: list[dict[str, str]]) -> int:
    ends = follow.Ends(TOPIC)  # from here on, before the first task is sent
    ids: dict[str, dict[str, str]] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("measured", total=len(payloads))
        began = time.monotonic()
        ids = dict(zip(bus.enqueue_many(TOPIC, payloads), payloads, strict=True))
        last = began
        while ids.keys() - ends.done.keys() - ends.dead.keys():
            if ends.read(ids.keys()):
                last = time.monotonic()
            elif time.monotonic() - last > STALLED_S:
                console.print(f"Nothing ended for {STALLED_S:g} s: is an agent alive?")
                return 1
            progress.update(bar, completed=len(ends.done) + len(ends.dead))
        took_s = time.monotonic() - began
    return _summary(console, ids, ends, took_s)


def _summary(
    console: Console, ids: dict[str, dict[str, str]], ends: follow.Ends, took_s: float
) -> int:
    """Print what came of it; 0 if every file is accounted for."""
    kinds = Counter(str(letter.error.get("type")) for letter in ends.dead.values())
    buried = [ids[task_id] for task_id in ends.dead]
    # A file that is done was parsed by its agent; so only the dead need an answer key.
    honest = sorted(map(_path, corpus.unparsable(buried))) == sorted(map(_path, buried))
    whole = len(ends.done) + len(ends.dead) == len(ids)
    ledger: dict[str, Any] = bus.stats(TOPIC)["ledger"]
    sums = sum(row.get("lines", 0) for row in map(_lines, ends.done.values()))
    by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    console.print()
    console.print(f"files          {len(ids):>9,}")
    console.print(f"done           {len(ends.done):>9,}   {sums:,} lines measured")
    console.print(f"dead letters   {len(ends.dead):>9,}   {by_kind or 'none'}")
    exactly = "exactly the files that do not parse" if honest else "NOT what fails here"
    console.print(f"               {'':>9}   {exactly}")
    console.print(f"tasks/s        {len(ids) / took_s:>9,.0f}   in {took_s:.1f} s")
    console.print(
        f"ledger         {ledger['came']:>9,}   came = {ledger['live']:,} live + "
        f"{ledger['ended']:,} ended, drift {ledger['drift']}"
    )
    if ledger["came"] != len(ids):
        console.print(f"               {'':>9}   topic {TOPIC} with its other tasks")
    console.print("\nA dead letter again: `.venv/bin/python manage.py dead list`, then")
    console.print("`… dead replay ID` and `… dead show ID` (with `make run` going on).")
    return 0 if honest and whole and ledger["drift"] == 0 else 1


def _path(payload: dict[str, str]) -> str:
    return f"{payload['root']}/{payload['path']}"


def _lines(row: dict[str, Any]) -> dict[str, int]:
    """The totals of one result; agents of another version may give other shapes."""
    result = row.get("result")
    lines = result.get("lines", {}) if isinstance(result, dict) else {}
    total = lines.get("total", 0) if isinstance(lines, dict) else lines
    return {"lines": total if isinstance(total, int) else 0}


if __name__ == "__main__":
    sys.exit(main())
