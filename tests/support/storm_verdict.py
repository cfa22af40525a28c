"""The verdict on a storm: what all were told and did, against what the mesh holds."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

import bus
from bus import keys
from bus.conf import conf
from tests.support.chronicle import record
from tests.support.keyspace import wounds
from tests.support.storm import ENDS, TOPIC, Fleet
from tests.support.storm_faults import Nemesis
from tests.support.storm_senders import Operators, Senders
from tests.support.storm_work import FENCED, RAN

# What the API may say to a sender of sound tasks.
STATUSES = {200, 201, 503}


@dataclass
class Report:
    """What a storm came to; `broken` has a sentence per promise that was not kept."""

    seed: int
    faults: Counter[str]
    tasks: int
    unknown: int
    sends: int
    executions: int
    fenced: int
    refused: int  # repeats the mesh recognised
    hand_overs: int
    slowest_s: float
    repaired: int
    lost: list[str]
    double: list[str]
    broken: list[str]

    def tell(self, suite: str) -> None:
        """Into the table of the run."""
        record(
            suite,
            faults=self.faults,
            tasks=self.tasks,
            executions=self.executions,
            fenced=self.fenced,
            refused=self.refused,
            hand_overs=self.hand_overs,
            slowest_s=self.slowest_s,
            lost=len(self.lost),
            double=len(self.double),
            repaired=self.repaired,
        )


def judge(
    client: redis.Redis,
    senders: Senders,
    operators: Operators,
    fleet: Fleet,
    nemesis: Nemesis,
    ledger: Path,
    seed: int,
) -> Report:
    """Compare; everything must have ended before."""
    rows: Any = client.xrange(bus.result_stream(TOPIC))
    results = Counter(fields["id"] for _, fields in rows)
    ended = {fields["id"]: json.loads(fields["json"])["state"] for _, fields in rows}
    dead = {letter.id: letter for letter in bus.list_dead(TOPIC, 100_000)}
    ended |= dict.fromkeys(dead, "dead")
    ran, fenced = _executions(ledger)
    sent = senders.accepted | senders.unknown
    events: Any = client.xrange(keys.named("events", TOPIC))
    stats = bus.stats(TOPIC)

    broken = [f"{i} was refused" for i in senders.refused]
    broken += [f"{i} was accepted, and is unknown" for i in operators.missing]
    broken += [f"{i} was sent by nobody" for i in ended if i not in sent]
    broken += [
        f"{i}, {kind}, ended {ended[i]}"
        for i, kind in sent.items()
        if i in ended and ended[i] not in ENDS[kind]
    ]
    broken += [
        f"{i} was cancelled, and ended {ended.get(i)}"
        for i in operators.cancelled
        if ended.get(i) != "cancelled"
    ]
    broken += [
        f"{i}, {kind}, ended done and never ran"
        for i, kind in sent.items()
        if ended.get(i) == "done" and not ran[i]
    ]
    broken += [
        f"the poison {i} ran {ran[i]} times"
        for i, kind in sent.items()
        if kind == "poison" and ran[i] > conf.MAX_DELIVERIES
    ]
    broken += [
        f"{n} replays of epoch {epoch} of {i} succeeded"
        for (i, epoch), n in operators.replays.items()
        if n > 1
    ]
    odd = set(senders.statuses()) - STATUSES
    broken += [f"the API answered {status}" for status in sorted(odd)]
    broken += wounds(client, TOPIC)
    return Report(
        seed=seed,
        faults=nemesis.faults,
        tasks=len(senders.accepted),
        unknown=len(senders.unknown),
        sends=senders.sends,
        executions=ran.total(),
        fenced=fenced,
        refused=stats["repeated"],
        hand_overs=stats["lost"],
        slowest_s=_slowest_s(client, events, fleet, nemesis),
        repaired=stats.get("repaired", 0),
        lost=[i for i in senders.accepted if i not in ended],
        double=[i for i, n in results.items() if n > 1 or i in dead],
        broken=broken,
    )


def _executions(ledger: Path) -> tuple[Counter[str], int]:
    """How often each task ran, and how many ends were refused for an old fence."""
    ran: Counter[str] = Counter()
    fenced = 0
    for line in ledger.read_text().splitlines():
        what, task_id, *_ = line.split()
        ran[task_id] += what == RAN
        fenced += what == FENCED
    return +ran, fenced


def _slowest_s(
    client: redis.Redis, events: Any, fleet: Fleet, nemesis: Nemesis
) -> float:
    """The longest time from a death to the hand-over of a task, less blind times."""
    seconds, micros = client.time()  # type: ignore[misc]
    offset = time.monotonic() - (seconds + micros / 1e6)
    died: dict[str, float] = {}
    for at, agent_id in [*nemesis.kills, *fleet.deaths]:
        died[agent_id] = min(at, died.get(agent_id, at))
    slowest = 0.0
    for entry_id, fields in events:
        began = died.get(keys.agent_of(fields["detail"]))
        if fields["event"] != "lost" or began is None:
            continue
        ended = int(entry_id.partition("-")[0]) / 1000 + offset
        slowest = max(slowest, ended - began - _blind_s(nemesis.blind, began, ended))
    return slowest


def _blind_s(spans: list[tuple[float, float]], began: float, ended: float) -> float:
    """How much of a time lies in any of these spans, which may overlap."""
    blind, at = 0.0, began
    for since, to in sorted(spans):
        blind += max(0.0, min(to, ended) - max(since, at))
        at = max(at, min(to, ended))
    return blind
