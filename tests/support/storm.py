"""A mesh in a storm: producers, agents, and a nemesis that breaks something all along.

Producers remember what they were told of each task: accepted, or unknown because no
answer came. The handler keeps a ledger of executions in a file. After the storm `judge`
compares both with what the mesh says.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

import bus
from bus import keys, tasks
from bus.server import EmbeddedServer
from tests.support.agents import ROOT
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

TOPIC: Final = "storm"
KINDS: Final = ["good"] * 90 + ["flaky"] * 6 + ["fatal"] * 4


class Producers:
    """Threads that send until all tasks are sent, one by one or by the batch."""

    def __init__(self, count: int, threads: int, seed: int, pace_s: float) -> None:
        self.accepted: dict[str, str] = {}  # id -> kind
        self.unknown: dict[str, str] = {}
        self._pace_s = pace_s
        share = count // threads
        self._threads = [
            threading.Thread(target=self._run, args=(share, random.Random(seed + n)))
            for n in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, count: int, dice: random.Random) -> None:
        sent = 0
        while sent < count:
            size = min(dice.choice([1, 1, 20]), count - sent)
            wanted = {tasks.new_id(): dice.choice(KINDS) for _ in range(size)}
            payloads = [
                {"kind": kind, "ms": dice.randint(0, 80), "n": sent + at}
                for at, kind in enumerate(wanted.values())
            ]
            try:
                bus.enqueue_many(TOPIC, payloads, task_ids=list(wanted))
            except bus.BusUnavailable:
                self.unknown.update(wanted)
            else:
                self.accepted.update(wanted)
            sent += size
            time.sleep(self._pace_s * size)


class Fleet:
    """Agent processes, started again when they are gone."""

    def __init__(self, count: int, ledger: Path) -> None:
        self._env = {**os.environ, "MESH_STORM_LEDGER": str(ledger)}
        self._births = 0
        self.agents: list[subprocess.Popen[bytes]] = []
        self.ids: dict[int, str] = {}  # pid -> agent id
        self.stopped: set[int] = set()
        for _ in range(count):
            self.agents.append(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        self._births += 1
        agent_id = f"storm-{self._births}"
        argv = [sys.executable, str(ROOT / "manage.py"), "agent", "--topic", TOPIC]
        argv += ["--handler", "tests.support.storm_work:run", "--agent-id", agent_id]
        quiet = subprocess.DEVNULL
        agent = subprocess.Popen(
            [*argv, "--concurrency", "10"],
            cwd=ROOT,
            env=self._env,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        self.ids[agent.pid] = agent_id
        return agent

    def tend(self) -> list[int]:
        """Start anew what has ended; the pids that had."""
        gone = []
        for place, agent in enumerate(self.agents):
            if agent.poll() is not None:
                gone.append(agent.pid)
                self.agents[place] = self._start()
        return gone

    def close(self) -> None:
        for agent in self.agents:
            with contextlib.suppress(ProcessLookupError):
                agent.send_signal(signal.SIGCONT)
            agent.terminate()
        for agent in self.agents:
            try:
                agent.wait(15)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait(5)


@dataclass
class Nemesis:
    """Breaks one thing at a time and heals it, all after one seed."""

    server: EmbeddedServer
    fleet: Fleet
    dice: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    kills: list[tuple[float, str]] = field(default_factory=list)  # monotonic, agent id
    down: list[tuple[float, float]] = field(default_factory=list)  # server away

    def strike(self) -> None:
        """One fault, from its beginning to its end."""
        faults: list[Callable[[], None]] = [
            self.kill_an_agent,
            self.kill_an_agent,
            self.stop_an_agent,
            self.kill_the_server,
            self.freeze_the_server,
            self.cut_all_connections,
            self.forget_all_scripts,
            self.destroy_the_group,
        ]
        fault = self.dice.choice(faults)
        self.faults[fault.__name__.replace("_", " ")] += 1
        with contextlib.suppress(redis.RedisError):
            fault()

    def kill_an_agent(self) -> None:
        agent = self.dice.choice(self.fleet.agents)
        agent.kill()
        agent.wait(5)
        self.kills.append((time.monotonic(), self.fleet.ids[agent.pid]))
        self.fleet.tend()

    def stop_an_agent(self) -> None:
        agent = self.dice.choice(self.fleet.agents)
        agent.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.5, 6))
        agent.send_signal(signal.SIGCONT)

    def kill_the_server(self) -> None:
        assert self.server.pid is not None
        began = time.monotonic()
        os.kill(self.server.pid, signal.SIGKILL)
        wait_until(lambda: not self.server.alive(), 5, "the server is dead")
        time.sleep(self.dice.choice([0, 0, 1.5]))
        self.server.start()
        self.down.append((began, time.monotonic()))

    def freeze_the_server(self) -> None:
        assert self.server.pid is not None
        began = time.monotonic()
        os.kill(self.server.pid, signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.2, 4))
        os.kill(self.server.pid, signal.SIGCONT)
        self.down.append((began, time.monotonic()))

    def cut_all_connections(self) -> None:
        with self._client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def forget_all_scripts(self) -> None:
        with self._client() as client:
            client.script_flush()

    def destroy_the_group(self) -> None:
        with self._client() as client:
            group = str(client.hget(keys.named("settings", TOPIC), "group"))
            client.xgroup_destroy(bus.task_stream(TOPIC), group)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, decode_responses=True)


@dataclass
class Report:
    """What a storm came to; `str` is the table."""

    seed: int
    faults: dict[str, int]
    tasks: int
    unknown: int
    executions: int
    repeated: int  # executions beyond the first of a task that was not flaky
    hand_overs: int
    slowest_s: float
    lost: list[str]
    double: list[str]
    invented: list[str]  # results of tasks nobody sent
    wrong: list[str]  # ended otherwise than their kind ends
    wounds: list[str]

    def __str__(self) -> str:
        faults = ", ".join(f"{n} × {what}" for what, n in sorted(self.faults.items()))
        return (
            f"seed {self.seed} · {faults}\n"
            f"tasks {self.tasks:,} accepted, {self.unknown:,} unanswered · executions "
            f"{self.executions:,}, {self.repeated} repeated · hand-overs "
            f"{self.hand_overs}, slowest {self.slowest_s:.1f} s\n"
            f"lost {len(self.lost)} · double results {len(self.double)} · invented "
            f"{len(self.invented)} · ended wrong {len(self.wrong)} · wounds "
            f"{len(self.wounds)}"
        )


def judge(
    client: redis.Redis, producers: Producers, nemesis: Nemesis, ledger: Path, seed: int
) -> Report:
    """Compare what was said and done with what the mesh holds."""
    rows: Any = client.xrange(bus.result_stream(TOPIC))
    results = Counter(fields["id"] for _, fields in rows)
    dead = {letter.id: letter for letter in bus.list_dead(TOPIC, 100_000)}
    ran = Counter(line.split()[0] for line in ledger.read_text().splitlines())
    sent = producers.accepted | producers.unknown
    ends = {"good": results, "flaky": results, "fatal": dead, "poison": dead}
    ended = {*results, *dead}
    events: Any = client.xrange(keys.named("events", TOPIC))
    lost_at: dict[str, float] = {}
    for entry_id, fields in events:
        if fields["event"] == "lost":
            lost_at[fields["id"]] = int(entry_id.partition("-")[0])
    return Report(
        seed=seed,
        faults=dict(nemesis.faults),
        tasks=len(producers.accepted),
        unknown=len(producers.unknown),
        executions=ran.total(),
        repeated=sum(n - 1 for i, n in ran.items() if sent.get(i) in ("good", "fatal")),
        hand_overs=sum(1 for _, f in events if f["event"] == "lost"),
        slowest_s=_slowest_s(client, events, nemesis),
        lost=[i for i in producers.accepted if i not in ended],
        double=[i for i, n in results.items() if n > 1 or i in dead],
        invented=[i for i in ended if i not in sent],
        wrong=[i for i in ended if i in sent and i not in ends[sent[i]]],
        wounds=wounds(client, TOPIC),
    )


def _slowest_s(client: redis.Redis, events: Any, nemesis: Nemesis) -> float:
    """The longest time from a kill to the hand-over of a task, less server outages."""
    seconds, micros = client.time()  # type: ignore[misc]
    offset = time.monotonic() - (seconds + micros / 1e6)
    killed = {agent_id: at for at, agent_id in nemesis.kills}
    slowest = 0.0
    for entry_id, fields in events:
        began = killed.get(keys.agent_of(fields["detail"]))
        if fields["event"] != "lost" or began is None:
            continue
        ended = int(entry_id.partition("-")[0]) / 1000 + offset
        away = sum(
            max(0.0, min(ended, to) - max(began, since)) for since, to in nemesis.down
        )
        slowest = max(slowest, ended - began - away)
    return slowest
