"""Guarantees about tasks: where they are, who may end them, how often, how soon.

Each guarantee has one test that is named after it, here or in a file of its subject:
`grep -rn "def test_g[0-9]" tests` lists them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, janitor, keys, messages
from bus.conf import conf
from bus.deliveries import Delivery
from tests.support import agents, chronicle, transitions, wrecks
from tests.support.api import api, problem
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.chaos

SUITE = "guarantees"
ID = "0198c0de-0000-7000-8000-00000000abcd"


async def mixed(payload: Any, task: bus.Task) -> Any:
    """Ends in every way: done, tried again, dead at first, dead for good."""
    await asyncio.sleep(payload % 7 / 1000)
    if payload % 5 == 0 and task.attempt == 1:
        raise bus.Retry(0.02, "not yet")
    if payload % 7 == 0 and task.epoch == 0:
        raise bus.GiveUp("not in this life")
    if payload % 11 == 0:
        raise bus.GiveUp("never")
    return payload


def test_g1_an_acknowledged_task_is_at_every_moment_in_exactly_one_state(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledged task is at every moment in exactly one state: waiting, running,
    delayed, done, dead, cancelled or discarded. Never none, never two."""
    dice = random.Random(chronicle.seed())
    ids: list[str] = []
    strange: list[str] = []
    over = threading.Event()

    def look() -> None:
        """Whoever asks at any moment is told of one state that there is."""
        eyes = random.Random(chronicle.seed() + 1)
        while not over.is_set():
            if ids:
                task = bus.get_task(eyes.choice(ids), test_topic)
                if task.state not in messages.STATES:
                    strange.append(f"{task.id}: {task.state}")

    def meddle() -> None:
        """An operator who cancels, replays, discards and thinks better of it."""
        while not over.is_set():
            verb = dice.choice([bus.cancel, bus.replay, bus.discard, bus.undo])
            try:
                if ids:
                    verb(dice.choice(ids), test_topic)
            except (errors.Conflict, errors.NotFound):
                continue  # it is not in a state for that

    bus.set_limits(test_topic, results_keep=100_000)
    with transitions.logged(monkeypatch), agents.running(test_topic, mixed):
        others = [threading.Thread(target=work) for work in (look, look, meddle)]
        for other in others:
            other.start()
        try:
            for number in range(600):
                delay_s = 0.05 if number % 3 == 0 else None
                ids.append(bus.enqueue_task(test_topic, number, delay_s=delay_s))
            wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60, "all ended")
        finally:
            over.set()
            for other in others:
                other.join(10)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60, "the last, too")

    taken = transitions.moves(redis_client, test_topic)
    assert strange == []
    assert transitions.faults(redis_client, test_topic) == []
    assert wounds(redis_client, test_topic) == []
    assert {bus.get_task(i, test_topic).state for i in ids} <= messages.ENDED
    assert bus.stats(test_topic)["ledger"]["drift"] == 0
    # It was no calm sea: every way out was taken, and some ways back.
    ways = {"complete", "fail", "promote", "cancel", "replay", "discard"}
    assert ways <= {verb for verb, _, _ in taken}
    chronicle.record(SUITE, tasks=len(ids), lost=0, double=0)


def test_g3_one_completion_per_epoch_is_accepted_and_the_fence_decides_whose(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """At most one completion is accepted per epoch (an epoch begins at enqueue and at
    every replay). Who lost the lease is told `fenced` or `gone`; his result is not
    stored."""
    slow, quick = Desk(test_topic, "slow#00000001"), Desk(test_topic, "quick#00000001")
    ids = bus.enqueue_many(test_topic, range(10))
    accepted: Counter[tuple[str, int]] = Counter()
    said: Counter[str] = Counter()
    late: list[tuple[Desk, Delivery]] = []
    fences: dict[str, str] = {}
    for epoch in range(3):
        first = slow.claim(10)
        slow.lose()  # it was stopped for longer than its lease
        second = quick.claim(10)
        assert {item.id for item in first} == {item.id for item in second} == set(ids)
        late += [(slow, item) for item in first]
        if epoch < 2:
            for item in second:
                quick.fail(item, final=True)
            late += [(quick, item) for item in second]
        else:
            late += [(quick, item) for item in second] * 2  # and each once more
            fences = {item.id: item.fence for item in second}
        random.Random(chronicle.seed() + epoch).shuffle(late)
        for desk, item in late:
            [outcome] = desk.complete(item, result=f'"{item.fence}"')
            said[outcome] += 1
            accepted[item.id, epoch] += outcome == "ok"
        if epoch < 2:
            for task_id in ids:
                bus.replay(task_id, test_topic)

    results = {row["id"]: row["result"] for _, row in bus.tail_results(test_topic, 99)}
    assert accepted == {(i, epoch): int(epoch == 2) for i in ids for epoch in range(3)}
    assert set(said) <= {"ok", "duplicate", "fenced", "gone"}
    assert results == fences
    assert wounds(redis_client, test_topic) == []
    refused = said["fenced"] + said["gone"]
    told = {"fenced": refused, "refused": said["duplicate"]}
    chronicle.record(SUITE, tasks=len(ids), lost=0, double=0, **told)


def test_g4_one_id_or_key_is_one_task_however_often_and_whenever_it_is_sent(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The same task id or Idempotency-Key is one task, a key for the whole time it is
    kept, also when the result is trimmed; with another payload it is a conflict (409)
    and nothing changes."""
    threads, each = 8, 25
    ids = [str(uuid.UUID(int=n + (7 << 76) + (2 << 62))) for n in range(each)]

    def send(thread: int) -> list[tuple[str, str]]:
        """Every id and key once, in an order of its own: what each came to."""
        order = list(range(each))
        random.Random(chronicle.seed() + thread).shuffle(order)
        told = []
        for n in order:
            told.append((f"id-{n}", bus.enqueue_task(test_topic, n, task_id=ids[n])))
            key = f"key-{n}"
            sent = bus.enqueue_task(test_topic, [n], idempotency_key=key)
            told.append((key, sent))
        return told

    def all_send() -> set[tuple[str, str]]:
        with ThreadPoolExecutor(threads) as pool:
            return set(itertools.chain.from_iterable(pool.map(send, range(threads))))

    names = all_send()
    assert len(names) == 2 * each  # everybody was told the same
    accepted = [bus.stats(test_topic)["accepted"]]
    with agents.running(test_topic, lambda payload, task: payload):
        assert all_send() == names  # while they run
        wait_until(lambda: bus.stats(test_topic)["done"] == 2 * each, 30, "all done")
    assert all_send() == names
    accepted.append(bus.stats(test_topic)["accepted"])
    before = _keyspace(redis_client)
    for n in range(each):
        with pytest.raises(errors.TaskConflict):
            bus.enqueue_task(test_topic, ["other", n], task_id=ids[n])
        with pytest.raises(errors.TaskConflict):
            bus.enqueue_task(test_topic, "other", idempotency_key=f"key-{n}")
    assert _keyspace(redis_client) == before
    # Keys outlive results: the index and the rows go, the key is known all the same.
    redis_client.delete(keys.named("done", test_topic), bus.result_stream(test_topic))
    for n in range(each):
        bus.enqueue_task(test_topic, [n], idempotency_key=f"key-{n}")
    accepted.append(bus.stats(test_topic)["accepted"])

    assert accepted == [2 * each] * 3
    repeated: Any = redis_client.hget(keys.named("counters", test_topic), "repeated")
    chronicle.record(SUITE, tasks=2 * each, refused=int(repeated), lost=0, double=0)


def _keyspace(client: redis.Redis) -> dict[str, Any]:
    """Every key with all it holds, but for what counts calls."""
    names = sorted(str(name) for name in client.scan_iter(count=1_000))
    buckets = keys.rate_key("x").partition("{")[0]
    space = {n: _value(client, n) for n in names if not n.startswith(buckets)}
    for name, value in space.items():
        if name.endswith(":counters"):
            # How often a known id was sent is counted before payloads are compared.
            value.pop("repeated", None)
    return space


def _value(client: Any, name: str) -> Any:
    reads: dict[str, Callable[[str], Any]] = {
        "stream": lambda key: (client.xrange(key), client.xinfo_groups(key)),
        "hash": client.hgetall,
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        "set": client.smembers,
        "string": client.get,
    }
    return reads[client.type(name)](name)


@pytest.mark.django_db
def test_g5_a_refused_request_leaves_no_trace(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """What is refused (4xx, 429, 503 `not_written`) has written nothing."""
    settings.MESH_SEND_RETRY_S = 0.05
    desk, full = Desk(test_topic), f"{test_topic}-full"
    done, running = bus.enqueue_many(test_topic, ["done", "running"])
    desk.complete(desk.one())
    desk.one()
    dead = bus.enqueue_task(test_topic, "dead")
    desk.fail(desk.one(), final=True)
    bus.enqueue_task(test_topic, "here", task_id=ID)
    bus.set_limits(full, backlog_max=1)
    bus.enqueue_task(full, "the one")
    settings.MESH_TOPICS_MAX = 2
    nobody, viewer, door = api(None), api("viewer"), api("operator")
    task = {"topic": test_topic, "task": 1}
    taken = {**task, "id": ID}
    huge = "x" * (conf.PAYLOAD_MAX_BYTES + 1)
    before = _keyspace(redis_client)

    refusals: list[tuple[type[Exception], Callable[[], Any]]] = [
        (errors.TaskConflict, lambda: bus.enqueue_task(test_topic, 2, task_id=ID)),
        (errors.TopicFull, lambda: bus.enqueue_task(full, 1)),
        (errors.TopicFull, lambda: bus.enqueue_many(full, range(150))),
        (errors.TopicFull, lambda: bus.enqueue_task(full, 1, delay_s=60)),
        (errors.TooManyTopics, lambda: bus.enqueue_task(f"{test_topic}-new", 1)),
        (errors.InvalidName, lambda: bus.enqueue_task("No Topic", 1)),
        (errors.InvalidName, lambda: bus.enqueue_task(test_topic, 1, task_id="x")),
        (errors.InvalidOption, lambda: bus.enqueue_task(test_topic, 1, delay_s=-1)),
        (errors.InvalidPayload, lambda: bus.enqueue_task(test_topic, float("nan"))),
        (errors.PayloadTooLarge, lambda: bus.enqueue_task(test_topic, huge)),
        (errors.NotDead, lambda: bus.replay(done, test_topic)),
        (errors.NotDead, lambda: bus.discard(running, test_topic)),
        (errors.NotCancellable, lambda: bus.cancel(done, test_topic)),
        (errors.NotCancellable, lambda: bus.cancel(dead, test_topic)),
        (errors.TaskNotFound, lambda: bus.cancel(str(uuid.uuid4()), test_topic)),
    ]
    for kind, call in refusals:
        with pytest.raises(kind):
            call()
    problem(nobody.post("enqueue", task), 401, "not_authenticated")
    problem(viewer.post("enqueue", task), 403, "permission_denied")
    problem(door.raw("enqueue", b'{"topic": "'), 400, "unreadable")
    problem(door.raw("enqueue", b"x", "text/plain"), 415, "unsupported_media_type")
    problem(door.post("enqueue", {**task, "state": "done"}), 422, "invalid")
    problem(door.post("enqueue", taken), 409, "task_conflict")
    problem(door.post("enqueue", {**task, "topic": full}), 429, "topic_full")
    redis_client.config_set("maxmemory", 1)
    for delay_s in (None, 60):
        with pytest.raises(errors.BusUnavailable) as refusal:
            bus.enqueue_task(test_topic, 1, delay_s=delay_s)
        assert refusal.value.outcome == "not_written"
    redis_client.config_set("maxmemory", 0)

    assert _keyspace(redis_client) == before
    chronicle.record(SUITE, faults={"request refused": len(refusals) + 9}, lost=0)


def test_g8_a_killed_agents_tasks_are_handed_over_within_5_s(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """What an agent that is killed had in hand, another one runs within 5 s."""
    ids: list[str] = []
    took_s: list[float] = []
    kills = 2
    with _rests(test_topic, "heir"):
        for number in range(kills):
            name = f"victim-{number}"
            with _rests(test_topic, name) as victim:
                _registered("heir", name)
                ids += bus.enqueue_many(test_topic, [0.1] * 150)
                _holds(redis_client, test_topic, name)
                killed = time.monotonic()
                os.kill(victim.pid, signal.SIGKILL)
                victim.wait(10)
                _done(test_topic, len(ids))
            begun = wrecks.taken_over_at(redis_client, test_topic, name)
            assert begun, f"{name} held nothing"
            took_s += [at - killed for at in begun]

    stats = bus.stats(test_topic)
    assert max(took_s) < wrecks.HAND_OVER_S * PATIENCE
    assert wrecks.complaints(redis_client, test_topic, ids) == []
    assert stats["dead"] == 0
    chronicle.record(
        SUITE,
        faults={"agent killed": kills},
        tasks=len(ids),
        hand_overs=stats["lost"],
        slowest_s=max(took_s),
        lost=0,
        double=0,
    )


def _rests(topic: str, agent_id: str) -> Any:
    """A process with four slots for tasks that take as long as their payload says."""
    slots = ("--concurrency", "4", "--agent-id", agent_id)
    return agents.process(topic, "tests.support.work:rest", *slots)


def _registered(*agent_ids: str) -> None:
    def there() -> bool:
        return set(agent_ids) <= {row["agent_id"] for row in bus.list_agents()}

    wait_until(there, 30, f"{agent_ids} are there")


def _holds(client: redis.Redis, topic: str, agent_id: str) -> None:
    def holds() -> bool:
        rows: Any = client.xpending(bus.task_stream(topic), "default")["consumers"]
        return any(keys.agent_of(row["name"]) == agent_id for row in rows)

    wait_until(holds, 20, f"{agent_id} holds tasks")


def _done(topic: str, count: int) -> None:
    wait_until(lambda: bus.stats(topic)["done"] == count, 30, "all are done")


async def kill_and_tell(payload: Any, task: bus.Task) -> Any:
    """Kills its agent where the payload names a file, after a line into that file."""
    if isinstance(payload, str):
        with open(payload, "a") as log:
            log.write(f"{task.id}\n")
        os._exit(137)
    await asyncio.sleep(0.005)
    return payload


@pytest.mark.timeout(150)
def test_g9_a_task_that_kills_its_agents_runs_five_times_and_is_dead_as_poison(
    test_topic: str, tmp_path: Path
) -> None:
    """A task that kills its agents is executed at most `max_deliveries` (5) times, then
    it is dead with the reason `poison`; its neighbours are done."""
    log = tmp_path / "executions"
    killer = bus.enqueue_task(test_topic, str(log))
    ids = bus.enqueue_many(test_topic, range(100))

    # As `up` does it: the parent sees each one die, and starts the next.
    while bus.stats(test_topic)["backlog"]:
        handler = "tests.chaos.test_guarantees:kill_and_tell"
        with agents.process(test_topic, handler) as child:
            _dead_or_finished(child, test_topic)
        janitor.take_from_child(child.pid)

    [letter] = bus.list_dead(test_topic)
    executions = log.read_text().split()
    assert (letter.id, letter.error["reason"]) == (killer, "poison")
    assert set(executions) == {killer}
    assert 2 <= len(executions) <= conf.MAX_DELIVERIES
    assert {bus.get_task(i, test_topic).state for i in ids} == {"done"}
    chronicle.record(
        SUITE,
        faults={"agent killed by its task": len(executions)},
        tasks=1 + len(ids),
        lost=0,
        double=0,
    )


def _dead_or_finished(child: subprocess.Popen[bytes], topic: str) -> None:
    wait_until(
        lambda: child.poll() is not None or not bus.stats(topic)["backlog"],
        30,
        "the agent is dead, or all is done",
    )


def test_g10_of_any_number_of_replays_at_once_exactly_one_happens(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of N concurrent replays of one dead letter exactly one puts it back to work."""
    rounds, admins = 10, 16
    desk = Desk(test_topic)

    def replay(task_id: str) -> bool:
        try:
            return bus.replay(task_id, test_topic) == task_id
        except (errors.NotDead, errors.DeadLetterNotFound):
            return False

    with transitions.logged(monkeypatch):
        task_id = bus.enqueue_task(test_topic, "x")
        for epoch in range(1, rounds + 1):
            desk.fail(desk.one(), final=True)
            with ThreadPoolExecutor(admins) as pool:
                won = list(pool.map(replay, [task_id] * admins))
            task = bus.get_task(task_id, test_topic)
            assert (won.count(True), task.epoch, task.state) == (1, epoch, "waiting")

    taken = transitions.moves(redis_client, test_topic)
    entries: Any = redis_client.xlen(bus.task_stream(test_topic))
    assert taken["replay", transitions.DEAD, transitions.STREAM] == rounds
    assert transitions.faults(redis_client, test_topic) == []
    assert (bus.stats(test_topic)["replayed"], entries) == (rounds, 1)
    chronicle.record(SUITE, tasks=1, refused=rounds * (admins - 1), lost=0, double=0)
