"""`python -m bench.pages`: every page of the dashboard on a mesh at full size."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import machine, program
from bench.__main__ import count
from bench.http import servers
from bench.http.filling import Size, filled
from bench.report import percentile
from bus.server import EmbeddedServer

from . import browser, filling
from .browser import Browser, Took

CALLS: Final = 100
WARM: Final = 3
MOST_MS: Final = 200.0
FULL: Final = Size(agents=filling.AGENTS)
# By the name of the route; names and ids are those of `filling.fill`.
PAGES: Final[tuple[tuple[str, str], ...]] = (
    ("overview", "/"),
    ("topics", "/topics/"),
    ("topics", "/topics/?q=1"),
    ("topic", "/topics/{topic}/"),
    ("limits", "/topics/{topic}/limits"),
    ("purge", "/topics/{topic}/purge"),
    ("settle", "/topics/{topic}/settle"),
    ("send-new", "/topics/{topic}/new"),
    ("delete-topic", "/topics/{topic}/delete"),
    ("tasks", "/tasks/"),
    ("tasks", "/tasks/?state=waiting"),
    ("tasks", "/tasks/?topic={topic}&state=dead"),
    ("tasks", "/tasks/?q=nowhere"),
    ("tasks", "/tasks/?q=nowhere&state=done"),
    ("cancel-matching", "/tasks/cancel-matching?state=waiting"),
    ("cancel-matching", "/tasks/cancel-matching?q=nowhere"),
    ("task", "/tasks/{waiting}/"),
    ("task", "/tasks/{done}/?topic={topic}"),
    ("results", "/results/"),
    ("results", "/results/?topic={topic}"),
    ("results", "/results/?q=nowhere"),
    ("results", "/results/?q=nowhere&topic={topic}"),
    ("agents", "/agents/"),
    ("agent", "/agents/{agent}/"),
    ("dead", "/dead/"),
    ("dead", "/dead/?groups=all"),
    ("dead", "/dead/?topic={topic}"),
    ("dead", "/dead/?until=2100-01-01T00:00"),
    ("dead", "/dead/?error=nowhere"),
    ("group", "/dead/groups/{group}/"),
    ("discard-alike", "/dead/groups/{group}/discard"),
    ("letter", "/dead/{dead}/?topic={topic}"),
    ("edit", "/dead/{dead}/edit?topic={topic}"),
    ("discard", "/dead/{dead}/discard?topic={topic}"),
    ("bulks", "/replays/"),
    ("bulk-new", "/replays/new"),
    ("bulk-new", "/replays/new?topic={topic}"),
    ("bulk", "/replays/{job}/"),
    ("bulk-discard", "/replays/{job}/discard"),
    ("ollama", "/ollama/"),
    ("audit", "/audit/"),
    ("settings", "/settings/"),
)
_POST: Final = "a form's target, nothing to look at"
# Why these are not asked.
LEFT_OUT: Final = {
    "login": "who is signed in is sent on",
    "revoke-token": "one row of SQL by its key",
    **dict.fromkeys(
        (
            *("send", "pause", "resume", "cancel", "run", "drain", "replay", "undo"),
            *("ollama-ask", "ollama-end", "make-token", "bulk-start", "bulk-pause"),
            *("bulk-cancel", "cancel-ticked", "discard-ticked", "logout", "theme"),
            *("save-view", "forget-view"),
        ),
        _POST,
    ),
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page with what it took."""

    path: str
    took: Took

    @property
    def p50_ms(self) -> float:
        """What half of the calls took at most."""
        return percentile(self.took.wall_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """What all calls but one in a hundred took at most."""
        return percentile(self.took.wall_ms, 0.99)

    @property
    def holds(self) -> bool:
        """Whether it is within the promise."""
        return self.p99_ms <= MOST_MS


@contextlib.contextmanager
def opened(size: Size) -> Iterator[tuple[Browser, dict[str, str]]]:
    """A signed-in browser of a mesh of this size, and the names it asks by."""
    with contextlib.ExitStack() as stack:
        prefix = "mesh-bench-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        redis = stack.enter_context(EmbeddedServer(folder / "redis", port=0))
        web = stack.enter_context(servers.mesh(folder, redis.url))
        names = filled(redis.url, size, filling.MODULE)
        visitor = browser.opened(web, folder, redis.url)
        stack.callback(visitor.close)
        yield visitor, names


def measured(visitor: Browser, names: dict[str, str], calls: int) -> Iterator[Page]:
    """Every page, asked so often."""
    for _, path in PAGES:
        yield Page(path, visitor.took(path.format(**names), WARM, calls))


def table(pages: Sequence[Page]) -> Table:
    """All pages, within 80 columns."""
    drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("page, ms", no_wrap=True)
    for name in ("CPU", "p50", "p99", "most"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for page in pages:
        cpu_ms = page.took.cpu_ms
        colour = "green" if page.holds else "bold red"
        cells = ["–" if cpu_ms is None else f"{cpu_ms:.1f}", f"{page.p50_ms:.1f}"]
        cells += [f"[{colour}]{page.p99_ms:.1f}[/]", f"{MOST_MS:g}"]
        drawn.add_row(page.path, *cells)
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a page takes too long, 69 without a server."""
    options = _options(argv)
    return program.ended("bench.pages", lambda: _program(options))


def _program(options: argparse.Namespace) -> int:
    size = size_of(options)
    with opened(size) as (visitor, names):
        before = machine.ticks()
        pages = [*measured(visitor, names, options.calls)]
        load = machine.load(before, machine.ticks())
    console = Console()
    held = ", ".join(f"{n:,} {name}" for name, n in dataclasses.asdict(size).items())
    console.print(f"{held}; {options.calls} calls each\n", highlight=False)
    console.print(table(pages), highlight=False, soft_wrap=True)
    if load:
        console.print(
            f"\nstolen {load.stolen:.0%}, others {load.others:.0%} of all CPUs"
        )
    return 0 if all(page.holds for page in pages) else 1


def size_of(options: argparse.Namespace) -> Size:
    """How much the mesh holds: full or small, but for what is said."""
    base = dataclasses.asdict(filling.SMALL if options.small else FULL)
    return Size(**{name: getattr(options, name) or n for name, n in base.items()})


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pages",
        description="Asks every page of the dashboard on a mesh at full size, and "
        f"exits with 1 where one takes more than {MOST_MS:g} ms.",
    )
    parser.add_argument(
        "--calls", type=count(1), default=CALLS, help=f"of each page ({CALLS})"
    )
    parser.add_argument(
        "--small", action="store_true", help="a small mesh, for a quick try"
    )
    for name, n in dataclasses.asdict(FULL).items():
        parser.add_argument(f"--{name}", type=count(1), help=f"of the mesh ({n:,})")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
