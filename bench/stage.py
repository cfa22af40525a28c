"""The server, keys, processes that a figure needs, all gone when it is done."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import django
import redis

import bus
from bus import announcement, keys
from bus.home import child
from bus.server import EmbeddedServer

ROOT: Final = Path(__file__).resolve().parent.parent
STALLED_S: Final = 20.0  # without progress; a start takes one
_STOP_S: Final = 10.0  # an agent's own limit for a drain
_POLL_S: Final = 0.05  # seldom enough to cost the server nothing
_LOG_TAIL_CHARS: Final = 2_000


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The two streams of a bare consumer, with its group."""

    tasks: str
    results: str
    group: str = "bench"


class Stage:
    """A server to measure on, with a client of redis-py's own defaults."""

    def __init__(self, url: str, directory: Path) -> None:
        try:
            # Any: redis-py's types cover asynchronous replies as well.
            self.client: Any = redis.Redis.from_url(url)
        except ValueError as exc:
            raise BenchError(str(exc)) from None
        self.url = url
        self.server = announcement.ask(url).version
        self._directory = directory

    def use(self) -> None:
        """Have this process, and those it starts, work with this server."""
        os.environ["REDIS_URL"] = self.url

    @contextlib.contextmanager
    def another(self) -> Iterator[Stage]:
        """A second server, with nothing on it, used until the end; then this again."""
        folder = self._directory / f"redis-{secrets.token_hex(4)}"
        with EmbeddedServer(folder, port=0) as server:
            other = Stage(server.url, self._directory)
            other.use()
            try:
                yield other
            finally:
                other.client.close()
                self.use()

    @contextlib.contextmanager
    def topic(self, tasks: int) -> Iterator[str]:
        """A topic that takes so many tasks and keeps all their results."""
        name = f"bench-{secrets.token_hex(4)}"
        room = tasks + 1_000  # for warming up
        try:
            bus.set_limits(name, results_keep=room, backlog_max=room)
            yield name
        finally:
            mark = keys.task_stream(name).partition("{")[2]
            every = (keys.named(each, name) for each in keys.NAMES)
            self.client.delete(*(key for key in every if mark in key))
            self.client.srem(keys.TOPICS, name)
            self._settle()

    @contextlib.contextmanager
    def streams(self) -> Iterator[Streams]:
        """Two bare streams; the group reads from the first entry."""
        mark = secrets.token_hex(4)
        pair = Streams(f"bench:tasks:{mark}", f"bench:results:{mark}")
        try:
            self.client.xgroup_create(pair.tasks, pair.group, "0", mkstream=True)
            yield pair
        finally:
            self.client.delete(pair.tasks, pair.results)
            self._settle()

    def memory_bytes(self) -> int:
        """What the server uses now."""
        return int(self.client.info("memory")["used_memory"])

    def _settle(self) -> None:
        """Let the server free what was deleted: a thread of its own does that."""
        end_at = time.monotonic() + STALLED_S
        while self.client.info("memory").get("lazyfree_pending_objects", 0):
            if time.monotonic() > end_at:
                raise BenchError("the server does not come to rest after a deletion")
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def agent(
        self, topic: str, *options: str, handler: str = "noop", name: str = "agent"
    ) -> Iterator[Child]:
        """One agent process as a user starts it; `handler` is one of `handlers.py`."""
        argv = ["manage.py", "agent", "--topic", topic, *options]
        with self._child(
            name, [*argv, "--handler", f"bench.handlers:{handler}"]
        ) as one:
            yield one

    @contextlib.contextmanager
    def consumer(self, pair: Streams, *, script: bool = False) -> Iterator[Child]:
        """One bare consumer process."""
        argv = ["-m", "bench.consumer", pair.tasks, pair.results, pair.group]
        with self._child("consumer", argv + ["--script"] * script) as one:
            yield one

    @contextlib.contextmanager
    def _child(self, name: str, argv: Sequence[str]) -> Iterator[Child]:
        log = self._directory / f"{name}.log"
        with log.open("wb") as out:
            process = child.start([sys.executable, *argv], cwd=ROOT, stdout=out)
        try:
            yield Child(name, process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            process.wait()


class Child:
    """A process that works while we look on."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], log_path: Path
    ) -> None:
        self._name, self._process, self._log_path = name, process, log_path

    def until(self, progress: Callable[[], int], goal: int) -> None:
        """Wait until it came so far; BenchError if it ended or stands still."""
        best, end_at = -1, time.monotonic() + STALLED_S
        while (now := progress()) < goal:
            if now > best:
                best, end_at = now, time.monotonic() + STALLED_S
            self.check()
            if time.monotonic() > end_at:
                raise self._error(f"stands still at {now:,} of {goal:,}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """BenchError if it ended by itself."""
        if self._process.poll() is not None:
            raise self._error(f"ended: {child.ending(self._process.returncode)}")

    def _error(self, what: str) -> BenchError:
        said = self._log_path.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip()
        return BenchError(f"the {self._name} process {what}\n{said}".rstrip())


@contextlib.contextmanager
def opened(url: str | None) -> Iterator[Stage]:
    """A stage on the server at `url`, else on one of its own in a temporary folder."""
    with contextlib.ExitStack() as stack:
        prefix = "mesh-bench-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        # For ourselves and for the children; nothing here touches the folder's var/.
        os.environ["DJANGO_SETTINGS_MODULE"] = "meshsite.settings"
        os.environ["MESH_VAR_DIR"] = str(folder)
        os.environ.pop("REDIS_URL", None)
        django.setup()
        if url is None:
            url = stack.enter_context(EmbeddedServer(folder / "redis", port=0)).url
        stage = Stage(url, folder)
        stage.use()
        stack.callback(stage.client.close)
        yield stage
