"""`python -m bench.http.reads`: every GET on a full mesh, beside one that is small.

Two servers with a web process each are asked in turn, so that both see the same
machine. The small one holds a page of each thing: what differs is only what is not
asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import machine, program, stage
from bench.__main__ import count
from bench.report import percentile
from bus.server import EmbeddedServer

from . import filling, servers
from .filling import Size

CALLS: Final = 300
WARM: Final = 5
MOST: Final = 3.0  # times the p99 of the small mesh
MOST_BY_ID: Final = 10.0  # where the topic is not said: all topics are asked
_PREFIX: Final = "/api/v1/mesh/"
_TIMEOUT_S: Final = 60.0
# By the name of the call in the description; the ids are those of `filling.filled`.
READS: Final[tuple[tuple[str, str], ...]] = (
    ("get_task", "tasks/{waiting}?topic={topic}"),
    ("get_task", "tasks/{waiting}"),
    ("get_task", "tasks/{done}"),
    ("get_task", "tasks/{dead}"),
    ("list_tasks", "tasks?topic={topic}&state=waiting"),
    ("list_tasks", "tasks?topic={topic}&state=dead"),
    ("list_tasks", "tasks?topic={topic}&state=done"),
    ("list_tasks", "tasks?topic={topic}&state=delayed"),
    ("list_tasks", "tasks?topic={topic}&state=running"),
    ("list_results", "results?topic={topic}"),
    ("list_dead", "dead"),
    ("list_dead", "dead?topic={topic}"),
    ("list_dead", "dead?topic={topic}&error=no"),
    ("get_dead", "dead/{dead}?topic={topic}"),
    ("get_dead", "dead/{dead}"),
    ("list_dead_groups", "dead/groups"),
    ("list_dead_groups", "dead/groups?topic={topic}"),
    ("list_agents", "agents"),
    ("get_agent", "agents/{agent}"),
    ("list_topics", "topics?count=1"),
    ("get_topic", "topics/{topic}"),
    ("list_replays", "replays"),
    ("list_tokens", "tokens"),
    ("list_audit", "audit"),
    ("list_generations", "ollama/generations"),
    ("health", "health"),
    ("health_live", "health/live"),
    ("health_ready", "health/ready"),
    ("metrics", "metrics"),
    ("schema", "schema"),
)
# Why these are not asked.
LEFT_OUT: Final = {
    "stream_results": "it never ends",
    "get_replay": "one record by its key, and neither mesh has a job",
    "get_token": "one row of SQL by its key",
}
_BY_ID: Final = frozenset({"tasks/{waiting}", "tasks/{done}", "tasks/{dead}"}) | {
    "dead/{dead}"
}


@dataclass(frozen=True, slots=True)
class Read:
    """A call with what it took on both meshes, in ms."""

    path: str
    small: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    @property
    def most(self) -> float:
        """How many times the small mesh's p99 it may take."""
        return MOST_BY_ID if self.path in _BY_ID else MOST

    @property
    def ratio(self) -> float:
        """The full mesh's p99 as a multiple of the small one's."""
        return percentile(self.full, 0.99) / percentile(self.small, 0.99)

    @property
    def holds(self) -> bool:
        """Whether it is within."""
        return self.ratio <= self.most


class Site:
    """One web server that is asked on one connection."""

    def __init__(self, port: int, token: str, names: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=_TIMEOUT_S
        )
        self._headers = {"Authorization": f"Bearer {token}"}
        self._names = names

    def ask_ms(self, path: str) -> float:
        """How long a whole answer takes; BenchError where it is none."""
        path = _PREFIX + path.format(**self._names)
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        took_ms = (time.perf_counter() - began) * 1000
        if answer.status != 200:
            raise stage.BenchError(f"{path} says {answer.status}: {said[:500]!r}")
        return took_ms

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@contextlib.contextmanager
def site(size: Size) -> Iterator[Site]:
    """A web process on a server of its own that holds so much."""
    with contextlib.ExitStack() as stack:
        prefix = "mesh-bench-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        redis = stack.enter_context(EmbeddedServer(folder / "redis", port=0))
        web = stack.enter_context(servers.mesh(folder, redis.url))
        made = Site(web.port, web.token, filling.filled(redis.url, size))
        stack.callback(made.close)
        yield made


def measured(small: Site, full: Site, calls: int) -> list[Read]:
    """Every read so often on both, one after the other."""
    found = []
    for _, path in READS:
        read = Read(path)
        for n in range(WARM + calls):
            pair = small.ask_ms(path), full.ask_ms(path)
            if n >= WARM:
                read.small.append(pair[0])
                read.full.append(pair[1])
        found.append(read)
    return found


def table(reads: Sequence[Read]) -> Table:
    """All reads, within 80 columns."""
    drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("GET, ms", no_wrap=True)
    for name in ("small p50", "p99", "full p50", "p99", "ratio", "most"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for read in reads:
        figures = [
            percentile(times, share)
            for times in (read.small, read.full)
            for share in (0.5, 0.99)
        ]
        colour = "green" if read.holds else "bold red"
        cells = [f"{each:.1f}" for each in figures]
        cells += [f"[{colour}]{read.ratio:.1f}[/]", f"{read.most:g}"]
        drawn.add_row(read.path, *cells)
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a check finds a read too late, 69 without a server."""
    options = _options(argv)
    return program.ended("bench.http.reads", lambda: _program(options))


def _program(options: argparse.Namespace) -> int:
    names = [each.name for each in dataclasses.fields(Size)]
    size = Size(**{name: getattr(options, name) for name in names})
    with site(filling.SMALL) as small, site(size) as full:
        before = machine.ticks()
        reads = measured(small, full, options.calls)
        load = machine.load(before, machine.ticks())
    console = Console()
    said = ", ".join(f"{getattr(size, name):,} {name}" for name in names)
    console.print(f"{said}; {options.calls} calls each\n", highlight=False)
    console.print(table(reads), highlight=False, soft_wrap=True)
    if load:
        console.print(
            f"\nstolen {load.stolen:.0%}, others {load.others:.0%} of all CPUs"
        )
    late = any(not read.holds for read in reads)
    return 1 if options.check and late else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.http.reads",
        description="Asks every GET of the API on a full mesh and on a small one.",
    )
    for each in dataclasses.fields(Size):
        parser.add_argument(
            f"--{each.name}",
            type=count(1),
            default=each.default,
            help=f"of the full mesh ({each.default:,})",
        )
    parser.add_argument(
        "--calls", type=count(1), default=CALLS, help=f"of each read ({CALLS})"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when a read takes too long"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
