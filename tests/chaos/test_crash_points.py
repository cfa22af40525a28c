"""S2: processes die at every named point; nothing is lost, nothing ends twice."""

from __future__ import annotations

import random
import signal
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import agents as registry
from bus import crash, keys
from bus.agent import Agent
from bus.handlers import Handler
from tests.support import agents, chronicle, work, wreck_work, wrecks
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SUITE = "S2 crash points"
TASKS = 25
POINTS_OF_AGENTS = (
    "after_claim",
    "before_handler",
    "after_handler",
    "before_complete_sent",
    "after_complete_sent",
    "before_fail_sent",
    "after_fail_sent",
    "before_first_beat",
    "during_drain",
    "before_release_sent",
    "after_release_sent",
    "before_promote_sent",
    "after_promote_sent",
)
DRAINING = ("during_drain", "before_release_sent", "after_release_sent")
POINTS_OF_JUDGES = ("before_reclaim_sent", "after_reclaim_sent")
POINTS_OF_PRODUCERS = ("before_enqueue_sent", "after_enqueue_sent")
POINTS_OF_ADMINS = ("before_replay_sent", "after_replay_sent")


def test_every_point_is_attacked_here() -> None:
    attacked = {*POINTS_OF_AGENTS, *POINTS_OF_JUDGES}
    attacked |= {*POINTS_OF_PRODUCERS, *POINTS_OF_ADMINS}

    assert attacked == set(crash.POINTS)


def _payloads(dice: random.Random, slow: bool = False) -> list[Any]:
    """A mix that completes, is tried again, and dies; `slow` outlives any grace."""
    kinds = ["good"] * 15 + ["flaky"] * 6 + ["fatal"] * 4
    dice.shuffle(kinds)
    return [
        {"kind": "stubborn" if slow else kind, "ms": dice.randint(0, 40), "n": n}
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.timeout(150)
def test_agents_that_die_at_any_point_cost_nothing(
    redis_client: redis.Redis, tmp_path: Path, cleanup_test_data: None
) -> None:
    """One victim per point, all at once, each with a topic of its own."""
    dice = random.Random(chronicle.seed())
    ledgers = {point: tmp_path / point for point in POINTS_OF_AGENTS}
    topics = {point: f"{point.replace('_', '-')}-1" for point in POINTS_OF_AGENTS}
    ids = {}
    for point, topic in topics.items():
        payloads = _payloads(dice, point in DRAINING)
        if "promote" in point:  # all janitors promote; this agent is to come to it once
            for payload in payloads:
                payload["kind"] = payload["kind"].replace("flaky", "often")
        ids[point] = bus.enqueue_many(topic, payloads)
    rare = {"after_claim", "before_first_beat", *DRAINING}
    rare |= {p for p in POINTS_OF_AGENTS if "promote" in p}

    with agents.running("bystander", work.echo):
        victims = {}
        for point, topic in topics.items():
            nth = 1 if point in rare else dice.randint(1, 4)
            victims[point] = wrecks.agent(topic, f"{point}:{nth}", ledgers[point])
        try:
            for point in DRAINING:
                _held(redis_client, topics[point])
                victims[point].send_signal(signal.SIGTERM)
            died = wrecks.deaths(victims, 40)
        finally:
            wrecks.bury(victims)
        codes = {point: victim.returncode for point, victim in victims.items()}
        assert codes == dict.fromkeys(POINTS_OF_AGENTS, wrecks.DEAD_BY_POINT)

        heirs = [Handler(topic, wreck_work.inherit) for topic in topics.values()]
        with agents.serving(Agent(heirs)):
            wait_until(
                lambda: all(not bus.stats(t)["backlog"] for t in topics.values()),
                60,
                "all tasks have ended",
            )

    took_s, found = {}, {}
    for point, topic in topics.items():
        if complaints := wrecks.complaints(redis_client, topic, ids[point]):
            found[point] = complaints
        for at in wrecks.lost_at(redis_client, topic):
            took_s[point] = max(took_s.get(point, 0), at - died[point])
        _record(redis_client, topic, point, ledgers[point], took_s.get(point, 0.0))
    assert found == {}
    assert {p: s for p, s in took_s.items() if s > wrecks.HAND_OVER_S} == {}
    # Those who died with tasks in hand did so: the attack was one.
    holding = {"after_claim", "before_handler", "before_complete_sent", "during_drain"}
    assert holding <= set(took_s)


def _held(client: redis.Redis, topic: str) -> None:
    """Wait until somebody runs tasks of a topic."""

    def holds() -> bool:
        try:
            return bool(client.xpending(bus.task_stream(topic), "default")["pending"])
        except redis.ResponseError:
            return False  # nobody has made the group yet

    wait_until(holds, 30, f"tasks of {topic} are in hand")


def _record(
    client: redis.Redis, topic: str, point: str, ledger: Path, took_s: float
) -> None:
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    counters: Any = client.hgetall(keys.named("counters", topic))
    chronicle.record(
        SUITE,
        faults={point: 1},
        tasks=TASKS,
        executions=len(lines) + int(counters["done"]),
        hand_overs=int(counters.get("lost", 0)),
        slowest_s=took_s,
        lost=0,
        double=0,
        repaired=int(counters.get("repaired", 0)),
    )


@pytest.mark.parametrize("point", POINTS_OF_JUDGES)
def test_a_judge_that_dies_between_two_steps_leaves_the_tasks_to_the_next(
    redis_client: redis.Redis, test_topic: str, tmp_path: Path, point: str
) -> None:
    """Tasks of an agent that is gone; who takes them over dies at that."""
    dice = random.Random(chronicle.seed())
    ids = bus.enqueue_many(test_topic, _payloads(dice))
    bus.create_consumer_group(test_topic, "default")
    gone = keys.consumer_of("gone")
    registry.register("gone", gone, 0.05, {"agent_id": "gone", "agent_type": "test"})
    assert len(bus.read_group(test_topic, "default", gone, TASKS)) == TASKS
    ledger = tmp_path / "executions"

    victim = {point: wrecks.agent(test_topic, point, ledger)}
    try:
        assert wrecks.deaths(victim, 30)
    finally:
        wrecks.bury(victim)
    began = time.monotonic()
    with agents.running(test_topic, wreck_work.inherit):
        wait_until(lambda: not bus.stats(test_topic)["backlog"], 30, "all have ended")

    assert victim[point].returncode == wrecks.DEAD_BY_POINT
    assert wrecks.complaints(redis_client, test_topic, ids) == []
    took_s = max(wrecks.lost_at(redis_client, test_topic)) - began
    assert took_s < wrecks.HAND_OVER_S
    _record(redis_client, test_topic, point, ledger, max(0.0, took_s))


PRODUCER = """
topic, ids = sys.argv[1], sys.argv[2:]
for n, task_id in enumerate(ids[:10]):
    bus.enqueue_task(topic, {"n": n}, task_id=task_id)
rest = ids[10:]
for at in range(0, len(rest), 5):
    part = rest[at:at + 5]
    bus.enqueue_many(topic, [{"n": i} for i in part], task_ids=part, delay_s=0.2)
"""


@pytest.mark.parametrize("point", POINTS_OF_PRODUCERS)
def test_a_producer_that_dies_sends_again_and_every_task_is_one(
    redis_client: redis.Redis, test_topic: str, point: str
) -> None:
    dice = random.Random(chronicle.seed())
    ids = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(TASKS)]
    nths = [dice.randint(1, 10), dice.randint(11, 13)]  # of ten and three sends

    codes = []
    for nth in [*nths, 0]:
        wish = f"{point}:{nth}" if nth else ""
        producer = wrecks.script(PRODUCER, test_topic, *ids, point=wish)
        codes.append(producer.wait(30))
    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == TASKS, 20, "all are done")

    assert codes == [wrecks.DEAD_BY_POINT, wrecks.DEAD_BY_POINT, 0]
    assert wrecks.complaints(redis_client, test_topic, ids) == []
    stats = bus.stats(test_topic)
    assert stats["accepted"] == TASKS
    chronicle.record(
        SUITE, faults={point: 2}, tasks=TASKS, executions=TASKS, lost=0, double=0
    )


ADMIN = """
for task_id in sys.argv[2:]:
    try:
        bus.replay(task_id, sys.argv[1])
    except bus.NotDead:
        pass
    except bus.DeadLetterNotFound:
        pass
"""


@pytest.mark.parametrize("point", POINTS_OF_ADMINS)
def test_an_admin_who_dies_replays_again_and_every_letter_goes_once(
    redis_client: redis.Redis, test_topic: str, point: str
) -> None:
    dice = random.Random(chronicle.seed())
    ids = bus.enqueue_many(test_topic, range(TASKS))
    bus.create_consumer_group(test_topic, "default")
    for entry_id, fields in bus.read_group(test_topic, "default", "hand", TASKS):
        bus.move_to_dead(test_topic, entry_id, fields["payload"], "no")

    codes = []
    for wish in [f"{point}:{dice.randint(2, 20)}", ""]:
        admin = wrecks.script(ADMIN, test_topic, *ids, point=wish)
        codes.append(admin.wait(30))
    epochs = Counter(bus.get_task(task_id, test_topic).epoch for task_id in ids)
    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == TASKS, 20, "all are done")

    assert codes == [wrecks.DEAD_BY_POINT, 0]
    assert epochs == {1: TASKS}
    assert bus.stats(test_topic)["replayed"] == TASKS
    assert wrecks.complaints(redis_client, test_topic, ids) == []
    chronicle.record(
        SUITE, faults={point: 1}, tasks=TASKS, executions=TASKS, lost=0, double=0
    )
