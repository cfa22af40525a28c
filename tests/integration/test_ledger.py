"""The books balance after every step of any life a topic can have."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import redis
from pytest_django import Settings

import bus
from bus import (
    connection,
    deliveries,
    endings,
    errors,
    failures,
    janitor,
    judge,
    keys,
    looks,
    messages,
    records,
)
from bus.deliveries import Completion, Delivery, Failure, Seat

T = TypeVar("T")
GROUP = "workers"
CONSUMERS = ("ann", "bob", "cy#00000001")
STEPS = 300
LIVE = ("waiting", "running", "delayed")
COUNTED = (*LIVE, "dead", "done", "cancelled", "discarded")


class Walk:
    """A topic beside a model of it that is too simple to be wrong."""

    def __init__(self, topic: str, client: redis.Redis, seed: int) -> None:
        self.topic, self.redis = topic, client
        self.chance = random.Random(seed)
        self.runner = asyncio.Runner()
        self.states: dict[str, str] = {}
        self.payloads: dict[str, Any] = {}
        self.held: dict[str, tuple[str, str, str]] = {}  # id: consumer, sid, fence
        self.cancel_asked: set[str] = set()
        self.old: list[tuple[str, str, Delivery]] = []  # deliveries that are over
        self.unread = 0  # foreign entries nobody has seen yet
        self.unknown = 0
        self.steps: list[str] = []
        self.verbs = [
            getattr(self, name) for name in dir(self) if name.startswith("do_")
        ]
        bus.create_consumer_group(topic, GROUP)

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.chance.choice(self.verbs))

    def step(self, verb: Callable[[], Any]) -> None:
        self.steps.append(verb.__name__)
        verb()
        self.check()

    def one(self, *states: str) -> str | None:
        """Some task in one of these states that nobody asked to stop."""
        found = [
            task_id
            for task_id, state in self.states.items()
            if state in states and task_id not in self.cancel_asked
        ]
        return self.chance.choice(found) if found else None

    def now(self, task_id: str, state: str) -> None:
        self.states[task_id] = state
        if state != "running":
            self.cancel_asked.discard(task_id)
            if task_id in self.held:
                consumer, sid, _ = self.held.pop(task_id)
                self.old.append((task_id, consumer, self.delivery(task_id, sid)))

    def delivery(self, task_id: str, sid: str, fence: str = "") -> Delivery:
        n = int((fence or f"{sid}.0").rpartition(".")[2])
        record = records.Record(sid, 0, 0, n, 0, "", "")
        text = messages.dump(self.payloads.get(task_id)).decode()
        return Delivery(self.topic, sid, task_id, text, "", record, 0)

    def seat(self, consumer: str, call: Callable[[Seat], Awaitable[T]]) -> T:
        async def ask() -> T:
            client = connection.adedicated()
            try:
                return await call(Seat(client, self.topic, GROUP, consumer))
            finally:
                await client.aclose()

        return self.runner.run(ask())

    # --- what can happen

    def do_enqueue(self) -> None:
        payload = len(self.payloads)
        delay_s = self.chance.choice([None, None, 3_600])
        task_id = bus.enqueue_task(self.topic, payload, delay_s=delay_s)
        self.payloads[task_id] = payload
        self.states[task_id] = "delayed" if delay_s else "waiting"

    def do_enqueue_many(self) -> None:
        payloads = list(range(self.chance.randint(1, 5)))
        for task_id, payload in zip(
            bus.enqueue_many(self.topic, payloads), payloads, strict=True
        ):
            self.payloads[task_id] = payload
            self.states[task_id] = "waiting"

    def do_enqueue_again(self) -> None:
        if own := sorted(self.payloads):
            task_id = self.chance.choice(own)
            bus.enqueue_task(self.topic, self.payloads[task_id], task_id=task_id)

    def do_foreign(self) -> None:
        text = self.chance.choice(["1", '{"a": 1}', '"text"', "null"])
        self.redis.xadd(bus.task_stream(self.topic), {"json": text})
        self.unread += 1

    def do_orphan(self) -> None:
        fields = {"id": "x", "json": "1", "meta": ""}
        key = bus.task_stream(self.topic)
        sid = self.redis.xadd(key, fields)
        self.redis.xdel(key, sid)

    def do_read(self) -> None:
        consumer, count = self.chance.choice(CONSUMERS), self.chance.randint(1, 6)
        ready = Counter(self.states.values())["waiting"] + self.unread
        found = bus.read_group(self.topic, GROUP, consumer, count, block_ms=0)
        assert len(found) == min(count, ready)
        for sid, fields in found:
            task_id = fields["id"]
            if task_id not in self.states:
                assert task_id == keys.foreign_id(self.topic, sid)
                self.unread -= 1
            else:
                assert self.states[task_id] == "waiting"
            self.states[task_id] = "running"
            self.held[task_id] = (consumer, sid, fields["fence"])

    def do_ack(self) -> None:
        if self.held:
            task_id = self.chance.choice(sorted(self.held))
            assert bus.ack(self.topic, GROUP, self.held[task_id][1]) == 1
            self.now(task_id, "done")

    def do_ack_unknown(self) -> None:
        assert bus.ack(self.topic, GROUP, "5-5") == 0

    def do_move_to_dead(self) -> None:
        if task_id := self.one("running"):
            payload = self.payloads.get(task_id, {"error": task_id[-1]})
            bus.move_to_dead(self.topic, self.held[task_id][1], payload)
            self.now(task_id, "dead")

    def do_move_unknown(self) -> None:
        self.unknown += 1
        entry_id = f"7-{self.unknown}"
        bus.move_to_dead(self.topic, entry_id, {})
        self.states[keys.foreign_id(self.topic, entry_id)] = "dead"

    def do_complete(self) -> None:
        if self.held:
            task_id = self.chance.choice(sorted(self.held))
            consumer, sid, fence = self.held[task_id]
            assert self.complete(task_id, consumer, sid, fence) == ["ok"]
            self.now(task_id, "done")

    def complete(self, task_id: str, consumer: str, sid: str, fence: str) -> list[str]:
        item = self.delivery(task_id, sid, fence)
        row = endings.result_row(
            task_id,
            self.topic,
            item.json,
            b"null",
            agent=keys.agent_of(consumer),
            attempt=1,
            fence=item.fence,
            enqueued_ms=1,
            started_ms=2,
            finished_ms=3,
            own={},
        )
        done = [Completion(item, row, 1, 1)]
        return self.seat(consumer, lambda seat: deliveries.complete(seat, done))

    def do_complete_again(self) -> None:
        """A late or repeated completion changes nothing."""
        if self.old:
            task_id, consumer, item = self.chance.choice(self.old)
            outcome = self.complete(task_id, f"{consumer}-late", item.sid, item.fence)
            assert outcome[0] in ("duplicate", "gone", "fenced")

    def do_fail(self) -> None:
        if not self.held:
            return
        task_id = self.chance.choice(sorted(self.held))
        consumer, sid, fence = self.held[task_id]
        final = self.chance.random() < 0.5
        error = failures.plain("E", self.chance.choice("abc"), "failed")
        said, mark = messages.dump(error), failures.fingerprint(error)
        item = self.delivery(task_id, sid, fence)
        end = Failure(item, b'{"attempt":1}', said, mark, 3_600.0, final, 1_000, 1)
        [outcome] = self.seat(consumer, lambda seat: deliveries.fail(seat, [end]))
        if task_id in self.cancel_asked:
            assert outcome == "cancelled"
        else:
            assert outcome == ("dead" if final else "delayed")
        self.now(task_id, outcome)

    def do_release(self) -> None:
        if self.held:
            task_id = self.chance.choice(sorted(self.held))
            consumer, sid, fence = self.held[task_id]
            item = self.delivery(task_id, sid, fence)
            asked = task_id in self.cancel_asked
            self.seat(consumer, lambda seat: deliveries.release(seat, [item]))
            self.now(task_id, "cancelled" if asked else "waiting")

    def do_lose(self) -> None:
        consumer = self.chance.choice(CONSUMERS)
        judge.take(self.topic, GROUP, consumer, idle_ms=0)
        for task_id, (owner, _, _) in list(self.held.items()):
            if owner == consumer:
                asked = task_id in self.cancel_asked
                self.now(task_id, "cancelled" if asked else "waiting")

    def do_cancel(self) -> None:
        if task_id := self.one(*LIVE):
            outcome = bus.cancel(task_id, self.topic)
            if self.states[task_id] == "running":
                assert outcome == "running"
                self.cancel_asked.add(task_id)
            else:
                assert outcome == "cancelled"
                self.now(task_id, "cancelled")

    def do_cancel_ended(self) -> None:
        if task_id := self.one("done", "dead", "discarded"):
            with pytest.raises(errors.NotCancellable):
                bus.cancel(task_id, self.topic)

    def do_promote(self) -> None:
        late = sorted(i for i, state in self.states.items() if state == "delayed")
        due = self.chance.sample(late, min(len(late), 3))
        if due:
            key = keys.named("delayed", self.topic)
            self.redis.zadd(key, dict.fromkeys(due, 1), xx=True)
        looks.promote(self.topic)
        for task_id in due:
            self.now(task_id, "waiting")

    def do_replay(self) -> None:
        if task_id := self.one("dead"):
            bus.replay(task_id, self.topic)
            self.now(task_id, "waiting")

    def do_discard(self) -> None:
        if task_id := self.one("dead"):
            bus.discard(task_id, self.topic)
            self.now(task_id, "discarded")

    def do_undo(self) -> None:
        if task_id := self.one("discarded"):
            bus.undo(task_id, self.topic)
            self.now(task_id, "dead")

    def do_replay_what_is_not_dead(self) -> None:
        if task_id := self.one("waiting", "running", "delayed", "done", "cancelled"):
            with pytest.raises(errors.NotDead):
                bus.replay(task_id, self.topic)

    def do_trim(self) -> None:
        bus.set_limits(self.topic, results_keep=self.chance.randint(0, 50))
        janitor.trim(self.topic)

    def do_pause_for_a_read(self) -> None:
        bus.pause(self.topic)
        assert bus.read_group(self.topic, GROUP, "ann", 5, block_ms=0) == []
        bus.resume(self.topic)

    # --- what must always hold

    def check(self) -> None:
        stats = bus.stats(self.topic)
        model = Counter(self.states.values())
        found = {name: stats[name] for name in COUNTED}
        assert found == {name: model[name] for name in COUNTED}, self.steps
        assert stats["ledger"]["drift"] == 0, self.steps
        assert min(v for v in stats.values() if isinstance(v, int)) >= 0, self.steps
        assert stats["backlog"] == sum(model[name] for name in LIVE), self.steps
        self.check_containers(model)

    def check_containers(self, model: Counter[str]) -> None:
        """The same, counted by walking over everything."""
        named = {name: keys.named(name, self.topic) for name in keys.NAMES}
        key = bus.task_stream(self.topic)
        pending = self.redis.xpending_range(key, GROUP, "-", "+", 10_000)
        owners = Counter(row["consumer"] for row in pending)
        owners.pop(keys.HANDED_OVER, None)
        entries = self.redis.xlen(key)
        assert sum(owners.values()) == model["running"] == len(self.held), self.steps
        assert entries == model["waiting"] + model["running"] + self.unread, self.steps
        assert self.redis.zcard(named["delayed"]) == model["delayed"], self.steps
        assert self.redis.hlen(named["parked"]) == model["delayed"], self.steps
        letters = self.redis.xrange(bus.dead_stream(self.topic))
        index = self.redis.hgetall(named["dead_index"])
        by_task = {fields["id"]: sid for sid, fields in letters}
        assert index.items() >= by_task.items(), self.steps
        assert set(index.values()) == set(by_task.values()), self.steps
        groups = {fields["fp"] for _, fields in letters}
        assert set(self.redis.hkeys(named["errors"])) == groups, self.steps

    def finish(self) -> None:
        """Every task is where the model has it; then the topic drains for good."""
        for task_id, state in self.states.items():
            assert bus.get_task(task_id, self.topic).state == state, self.steps
        for _ in CONSUMERS:
            for consumer in CONSUMERS:
                judge.take(self.topic, GROUP, consumer, idle_ms=0)
        late = [task_id for task_id, state in self.states.items() if state == "delayed"]
        for task_id in late:
            bus.cancel(task_id, self.topic)
        while found := bus.read_group(self.topic, GROUP, "ann", 100, block_ms=0):
            for sid, _ in found:
                assert bus.ack(self.topic, GROUP, sid) == 1
        stats = bus.stats(self.topic)
        assert (stats["backlog"], stats["ledger"]["drift"]) == (0, 0), self.steps
        assert self.redis.xlen(bus.task_stream(self.topic)) == 0
        assert self.redis.hlen(keys.named("attempts", self.topic)) == 0


@pytest.fixture
def patient(settings: Settings) -> None:
    """No task is poison however often its agent is lost, none forgotten however long
    the walk takes."""
    settings.MESH_SUSPECT_AFTER = settings.MESH_MAX_DELIVERIES = 10_000
    settings.MESH_DONE_WINDOW_S = 3_600


@pytest.mark.parametrize("seed", range(6))
def test_the_books_balance_after_every_step(
    test_topic: str, redis_client: redis.Redis, patient: None, seed: int
) -> None:
    walk = Walk(test_topic, redis_client, seed)

    with walk.runner:
        walk.walk(STEPS)
        walk.finish()

    assert set(walk.steps) == {verb.__name__ for verb in walk.verbs}


def test_two_walks_side_by_side_do_not_disturb_each_other(
    test_topic: str, redis_client: redis.Redis, patient: None
) -> None:
    walks = [Walk(f"{test_topic}:{n}", redis_client, 100 + n) for n in range(2)]

    with walks[0].runner, walks[1].runner:
        for _ in range(STEPS // 2):
            for walk in walks:
                walk.walk(1)
        for walk in walks:
            walk.check()
            walk.finish()
