"""One turn of one contender: enqueue, enqueue many, drain, round trips, memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.report import percentile

from .contenders import Ready
from .harness import MARKS, WARM

_STALLED_S: Final = 120.0
_CLIENT_S: Final = 300.0
_STOP_S: Final = 5.0
_POLL_S: Final = 0.1
_MS: Final = 1000


class Failed(Exception):
    """A contender did not get through its turn; the message says where."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Tasks per second; milliseconds; bytes per waiting task."""

    enqueue: float
    enqueue_many: float
    drain: float
    trip_p50: float
    trip_p99: float
    memory: float


def turn(one: Ready, client: Any, url: str, tasks: int) -> Turn:
    """Everything once, on an empty server."""
    singles = trips = max(tasks // 10, 100)
    client.flushall()
    enqueue_s = sum(_client(one, url, "one", singles))
    client.flushall()
    _settle(client)
    before = int(client.info("memory")["used_memory"])
    many_s = sum(_client(one, url, "many", tasks))
    after = int(client.info("memory")["used_memory"])
    first, last = tasks // 10, tasks + WARM
    with _worker(one, url, first, last) as worker:
        drain_s = _drain_s(client, worker, first, last)
        took = sorted(_client(one, url, "trip", trips))
    return Turn(
        singles / enqueue_s,
        tasks / many_s,
        (last - first) / drain_s,
        percentile(took, 0.5) * _MS,
        percentile(took, 0.99) * _MS,
        (after - before) / (tasks + WARM),
    )


def _client(one: Ready, url: str, verb: str, count: int) -> list[float]:
    env = {**os.environ, "BENCH_URL": url}
    argv = [*one.client, verb, str(count)]
    try:
        done = subprocess.run(
            argv,
            cwd=one.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=_CLIENT_S,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{verb} {count} takes more than {_CLIENT_S:.0f} s") from None
    if done.returncode:
        raise Failed(f"{verb} {count} failed: {done.stderr.strip()[-800:]}")
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return [float(each) for each in figures]


@contextlib.contextmanager
def _worker(one: Ready, url: str, first: int, last: int) -> Iterator[Any]:
    counted = {"BENCH_FIRST": str(first), "BENCH_LAST": str(last)}
    # Some take their server from the environment.
    named = {"REDIS_URL": url, "RQ_REDIS_URL": url, "DOCKET_URL": url}
    here = {"BENCH_URL": url, "PYTHONPATH": str(one.folder)}
    env = {**os.environ, **named, **here, **counted}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            one.worker,
            cwd=one.folder,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        except Failed as exc:
            log.seek(0)
            raise Failed(f"{exc}\n{log.read()[-800:]}") from None
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            # Its children too, whatever it left of them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _drain_s(client: Any, worker: Any, first: int, last: int) -> float:
    """Seconds from the first counted run of the task to the last."""
    end_at = time.monotonic() + _STALLED_S + last / 100
    while not (ended := client.hget(MARKS, str(last))):
        if worker.poll() is not None:
            raise Failed("its worker ended by itself")
        if time.monotonic() > end_at:
            raise Failed("its worker does not come to an end")
        time.sleep(_POLL_S)
    return float(ended) - float(client.hget(MARKS, str(first)))


def _settle(client: Any) -> None:
    """Let the server free what was flushed: a thread of its own does that."""
    while client.info("memory").get("lazyfree_pending_objects", 0):
        time.sleep(_POLL_S)
