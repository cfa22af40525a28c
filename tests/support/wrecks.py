"""Processes that die where MESH_CRASH_AT says, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import redis

import bus
from bus import keys, messages
from tests.support.keyspace import wounds
from tests.support.processes import ROOT

DEAD_BY_POINT: Final = 137
HAND_OVER_S: Final = 5.0


def agent(topic: str, point: str, ledger: Path) -> subprocess.Popen[bytes]:
    """An agent of `wreck_work` that ends at a point."""
    argv = ["agent", "--topic", topic, "--handler", "tests.support.wreck_work:run"]
    name = f"victim-{topic}"
    return run(*argv, "--agent-id", name, "--concurrency", "5", point=point, log=ledger)


def run(*argv: str, point: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """`manage.py` with these arguments; an empty point is none."""
    return _started([str(ROOT / "manage.py"), *argv], point, log)


def script(source: str, *argv: str, point: str) -> subprocess.Popen[bytes]:
    """Python source behind `django.setup()`, as a producer's or an admin's process."""
    setup = "import django; django.setup()\nimport sys, bus\n"
    return _started(["-c", setup + source, *argv], point, None)


def _started(argv: list[str], point: str, log: Path | None) -> subprocess.Popen[bytes]:
    env = {**os.environ, "MESH_CRASH_AT": point}
    if log is not None:
        env["MESH_WRECK_LEDGER"] = str(log)
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def deaths(
    processes: dict[str, subprocess.Popen[bytes]], timeout_s: float
) -> dict[str, float]:
    """When each of them ended (monotonic s); those that did not are missing."""
    until, ended = time.monotonic() + timeout_s, {}
    while len(ended) < len(processes) and time.monotonic() < until:
        for name, process in processes.items():
            if name not in ended and process.poll() is not None:
                ended[name] = time.monotonic()
        time.sleep(0.005)
    return ended


def bury(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """End whatever of them still lives."""
    for process in processes.values():
        if process.poll() is None:
            process.kill()
        process.wait(5)


def lost_at(client: redis.Redis, topic: str) -> list[float]:
    """When tasks of a topic were handed over, as monotonic s of this process."""
    offset = _offset_s(client)
    return [
        int(entry_id.partition("-")[0]) / 1000 + offset
        for entry_id, _ in _losses(client, topic)
    ]


def taken_over_at(client: redis.Redis, topic: str, victim: str) -> list[float]:
    """When others started what agent `victim` lost, as monotonic s; all are done."""
    offset = _offset_s(client)
    rows: Any = client.xrange(bus.result_stream(topic))
    results = {fields["id"]: json.loads(fields["json"]) for _, fields in rows}
    started = []
    for _, fields in _losses(client, topic):
        if keys.agent_of(fields["detail"]) == victim:
            row = results[fields["id"]]
            assert row["agent"] != victim, row
            began_ms = messages.iso_ms(row["started_at"])
            assert began_ms is not None
            started.append(began_ms / 1000 + offset)
    return started


def _losses(client: redis.Redis, topic: str) -> list[tuple[str, dict[str, str]]]:
    events: Any = client.xrange(keys.named("events", topic))
    return [row for row in events if row[1]["event"] == "lost"]


def _offset_s(client: redis.Redis) -> float:
    """What the server's clock is behind the monotonic one of this process."""
    seconds, micros = client.time()  # type: ignore[misc]
    return time.monotonic() - (seconds + micros / 1e6)


def complaints(client: redis.Redis, topic: str, ids: list[str]) -> list[str]:
    """What is wrong with a topic whose tasks should all have ended, each once."""
    rows: Any = client.xrange(bus.result_stream(topic))
    results = Counter(fields["id"] for _, fields in rows)
    dead = {letter.id for letter in bus.list_dead(topic, 1_000)}
    stats = bus.stats(topic)
    found = [f"lost: {i}" for i in ids if i not in results and i not in dead]
    found += [f"two results: {i}" for i, n in results.items() if n > 1 or i in dead]
    found += [f"from nowhere: {i}" for i in {*results, *dead} - set(ids)]
    if stats["backlog"] or stats["ledger"]["drift"]:
        found.append(f"backlog {stats['backlog']}, ledger {stats['ledger']}")
    counters: Any = client.hgetall(keys.named("counters", topic))
    found += [
        f"{name}: {counters[name]}"
        for name in ("orphans", "repaired")
        if int(counters.get(name, 0))
    ]
    return found + wounds(client, topic)
