"""`python -m bench.http`: the hot call beside the same in FastAPI, in one table."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

import bus
from bench import machine, payloads, program, report, runs, stage
from bench.__main__ import count
from bench.figures import Figure
from bench.report import Floor, Pair, Row

from . import load, reference_names, servers

RUNS: Final = 3
SECONDS: Final = 10
WARM_S: Final = 1
ROOM: Final = 9_000_000  # tasks of a run; a bound is on, and is not reached
_PATH: Final = "/api/v1/mesh/enqueue"


def rows() -> list[Row]:
    """What the hot call promises: three times the reference, and no later."""
    most = Floor(1, at_least=False)
    return [
        Row("calls", "POST enqueue", "/s", Floor(3, at_least=True)),
        Row("p50", "POST enqueue, p50", "ms"),
        Row("p99", "POST enqueue, p99", "ms", most),
        Row("batch", "batch of 100, tasks", "/s", Floor(4, at_least=True)),
    ]


class Doors:
    """The two web servers, with a token that both know."""

    def __init__(self, here: stage.Stage, mesh: int, token: str, other: int) -> None:
        self._client = here.client
        self._mesh, self._other = (f"http://127.0.0.1:{each}" for each in (mesh, other))
        self._token = token
        hashed = hashlib.sha512(token.encode()).hexdigest()
        here.client.hset(reference_names.TOKENS, hashed, "operator")

    def ours(self, topic: str, seconds: int) -> load.Load:
        """`POST enqueue` of the mesh; BenchError if it wrote less than it said."""
        return self._kept(topic, "", self._body(topic), seconds, 1)

    def batches(self, topic: str, seconds: int) -> load.Load:
        """`POST enqueue/batch` of the mesh, a hundred tasks each."""
        tasks = [
            {"topic": topic, "task": payloads.payload(n)} for n in range(payloads.BATCH)
        ]
        return self._kept(topic, "/batch", {"tasks": tasks}, seconds, payloads.BATCH)

    def theirs(self, topic: str, seconds: int) -> load.Load:
        """`POST enqueue` of the reference, whose keys go when it is done."""
        body, url = self._body(topic), f"{self._other}/enqueue"
        try:
            load.once(url, self._token, body)
            return load.post(url, self._token, body, seconds)
        finally:
            self._client.delete(*reference_names.of(topic))

    @staticmethod
    def _body(topic: str) -> dict[str, Any]:
        return {"topic": topic, "task": payloads.payload(0)}

    def _kept(
        self, topic: str, path: str, body: Any, seconds: int, each: int
    ) -> load.Load:
        stream, url = bus.task_stream(topic), f"{self._mesh}{_PATH}{path}"
        load.once(url, self._token, body)
        before = int(self._client.xlen(stream))
        found = load.post(url, self._token, body, seconds)
        kept = int(self._client.xlen(stream)) - before
        if kept < found.calls * each:
            raise stage.BenchError(f"{found.calls:,} calls left {kept:,} tasks only")
        return found


def _run(doors: Doors, seconds: int, here: stage.Stage, tasks: int) -> dict[str, Pair]:
    """One turn of all; the topic is empty before each."""
    found = {}
    for name, call in (
        ("ours", doors.ours),
        ("theirs", doors.theirs),
        ("batches", doors.batches),
    ):
        with here.topic(ROOM) as topic:
            call(topic, WARM_S)
            found[name] = call(topic, seconds)
    ours, theirs, batches = found["ours"], found["theirs"], found["batches"]
    return {
        "calls": Pair(ours.per_s, theirs.per_s),
        "p50": Pair(ours.p50_ms, theirs.p50_ms),
        "p99": Pair(ours.p99_ms, theirs.p99_ms),
        "batch": Pair(batches.per_s * payloads.BATCH, ours.per_s),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a check finds a floor missed, 69 without what it needs."""
    options = _options(argv)
    return program.ended("bench.http", lambda: _program(options))


def _program(options: argparse.Namespace) -> int:
    measured, machine_now = _measured(options.runs, options.seconds)
    _show(measured, machine_now, options)
    if options.json:
        facts = report.as_dict(measured, machine_now, 0)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    missed = any(row.verdict == report.MISSED for row in measured)
    return 1 if options.check and missed else 0


def _measured(times: int, seconds: int) -> tuple[list[Row], machine.Machine]:
    with contextlib.ExitStack() as stack:
        servers.installed()  # before anything is started: it may take a minute
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-bench-"))
        here = stack.enter_context(stage.opened(None))
        folder = Path(name)
        mesh = stack.enter_context(servers.mesh(folder, here.url))
        other = stack.enter_context(servers.reference(folder, here.url))
        doors = Doors(here, mesh.port, mesh.token, other)
        figure = Figure("http", rows, functools.partial(_run, doors, seconds))
        found = runs.measured(here, [figure], times, 0)
        return found, machine.describe(here.server)


def _show(
    measured: Sequence[Row], machine_now: machine.Machine, options: argparse.Namespace
) -> None:
    by = "wrk" if load.with_wrk() else "a generator of ours (there is no wrk)"
    notes = (
        f"{load.CONNECTIONS} connections by {by}, {options.seconds} s each, medians of "
        f"{options.runs} interleaved runs; one web process each.\n"
        "raw: FastAPI with redis.asyncio; for the batch the single call of the mesh.\n"
        "stolen, others: % of all CPU time, per run, that went to the host's other\n"
        "guests, to processes that are not of the benchmark."
    )
    console = Console()
    for part in (f"{machine_now.line()}\n", report.table(measured), f"\n{notes}"):
        console.print(part, highlight=False, soft_wrap=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.http",
        description="Measures POST enqueue of the web server, one process, beside the "
        "same call written in FastAPI with redis.asyncio.",
    )
    parser.add_argument("--runs", type=count(1), default=RUNS, help=f"({RUNS})")
    parser.add_argument(
        "--seconds", type=count(1), default=SECONDS, help=f"of each load ({SECONDS})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures there")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a floor is missed"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
