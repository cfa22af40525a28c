"""A slot of a cluster in the middle of its move: no script stops half-way.

Half of a topic's keys are on another node already. Each verb either does nothing, and
says so, or all that it has to do.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, janitor, keys, levels, looks, scripts
from tests.support import cluster
from tests.support.cluster import Pair
from tests.support.desk import GROUP, Desk

SEEDS = range(2)  # which half of the keys has moved


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with cluster.pair(tmp_path_factory.mktemp("cluster") / "nodes") as pair:
        yield pair


@pytest.fixture
def topic(
    nodes: Pair, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> Iterator[str]:
    """A topic on the first node, which is the server of the code under test."""
    monkeypatch.setenv("REDIS_URL", nodes.one.url)
    settings.MESH_SEND_RETRY_S = 0.02
    levels.forget()
    scripts.forget_topics()
    yield f"test-{uuid.uuid4().hex[:12]}"
    connection.reset()
    levels.forget()


class Tour:
    """A topic with a task for each verb, and the verbs."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.desk = Desk(topic)
        self.known = bus.enqueue_task(topic, "known")
        self.waiting = bus.enqueue_task(topic, "to be cancelled", delay_s=3_600)
        bus.enqueue_task(topic, "due soon", delay_s=0.001)
        bus.enqueue_many(topic, range(6))
        self.done, self.lost, self.back, self.dying, self.kept = self.desk.claim(5)
        self.letters = [self._letter(n) for n in range(3)]
        bus.discard(self.letters[2], topic)
        self.verbs: dict[str, Callable[[], Any]] = {
            "enqueue": lambda: bus.enqueue_task(topic, "new"),
            "enqueue again": lambda: bus.enqueue_task(
                topic, "known", task_id=self.known
            ),
            "enqueue later": lambda: bus.enqueue_task(topic, "later", delay_s=60),
            "enqueue by key": lambda: bus.enqueue_task(topic, 1, idempotency_key="k"),
            "claim": self.desk.claim,
            "complete": lambda: self.desk.complete(self.done),
            "fail": lambda: self.desk.fail(self.lost),
            "fail for good": lambda: self.desk.fail(self.dying, final=True),
            "release": lambda: self.desk.release(self.back),
            "heartbeat": lambda: self.desk.beat(self.kept),
            "cancel": lambda: bus.cancel(self.waiting, topic),
            "promote": lambda: looks.promote(topic),
            "reclaim": self.desk.lose,
            "trim": lambda: janitor.trim(topic),
            "replay": lambda: bus.replay(self.letters[0], topic),
            "discard": lambda: bus.discard(self.letters[1], topic),
            "undo": lambda: bus.undo(self.letters[2], topic),
            "pause": lambda: bus.pause(topic),
            "resume": lambda: bus.resume(topic),
            "stats": lambda: bus.stats(topic),
            "get_task": lambda: bus.get_task(self.known, topic),
        }

    def _letter(self, n: int) -> str:
        task_id = bus.enqueue_task(self.topic, {"letter": n})
        item = next(x for x in self.desk.claim(20) if x.id == task_id)
        self.desk.fail(item, final=True)
        return task_id


@pytest.mark.parametrize("seed", SEEDS)
def test_g13_no_verb_stops_half_way_while_a_slot_moves(
    nodes: Pair, topic: str, seed: int
) -> None:
    """What was refused left both nodes as they were, and works after the move."""
    tour = Tour(topic)
    slot = nodes.slot(keys.task_stream(topic))
    nodes.begin(slot)
    here = nodes.keys(nodes.one, slot)
    moved = random.Random(seed).sample(sorted(here), len(here) // 2)
    nodes.move(moved, nodes.one, nodes.two)
    assert moved and len(moved) < len(here)
    refused: dict[str, Callable[[], Any]] = {}

    for name, call in tour.verbs.items():
        before = nodes.content(slot)
        try:
            call()
        except errors.BusUnavailable as exc:
            assert exc.outcome == "not_written", name
            assert nodes.content(slot) == before, f"{name} was refused, and wrote"
            refused[name] = call
    nodes.give_up(slot)
    for call in refused.values():
        call()

    assert {"enqueue", "complete", "fail", "claim"} <= refused.keys()
    facts = bus.stats(topic)
    assert facts["ledger"]["drift"] == 0
    assert bus.get_task(tour.done.id, topic).state == "done"
    assert bus.get_task(tour.dying.id, topic).state == "dead"
    assert bus.get_task(tour.waiting, topic).state == "cancelled"


def test_the_topic_goes_on_where_its_slot_went(nodes: Pair, topic: str) -> None:
    """Scripts, as the second node runs them: it has all, the first one says MOVED."""
    tour = Tour(topic)
    slot = nodes.slot(keys.task_stream(topic))
    before = bus.stats(topic)["ledger"]
    nodes.begin(slot)
    nodes.move(nodes.keys(nodes.one, slot)[::2], nodes.one, nodes.two)
    nodes.finish(slot)
    there: Any = redis.Redis.from_url(nodes.two.url, decode_responses=True)

    row = '{"id": "x"}'
    held = tour.done
    args = [GROUP, tour.desk.consumer, 10, held.sid, held.record.n, held.id, 1, 1, row]
    completed = scripts.run("complete", topic, args, client=there)

    assert completed == [1]
    with pytest.raises(errors.BusUnavailable, match="MOVED") as failure:
        bus.enqueue_task(topic, 1)
    assert failure.value.outcome == "not_written"
    assert before["drift"] == 0
    there.close()


def test_a_key_that_is_not_declared_is_how_a_script_stops_half_way(
    nodes: Pair, topic: str
) -> None:
    """Without this the tests above could not fail."""
    one, two = f"{{{topic}}}:one", f"{{{topic}}}:two"
    client = nodes.one.client
    client.mset({one: "before", two: "before"})
    slot = nodes.slot(one)
    nodes.begin(slot)
    nodes.move([two.encode()], nodes.one, nodes.two)
    script = "for _, k in ipairs({%s}) do redis.call('SET', k, 'after') end"

    with pytest.raises(redis.RedisError):
        client.eval(script % "KEYS[1], ARGV[1]", 1, one, two)
    assert client.get(one) == b"after"  # and the other one is not

    client.set(one, "before")
    with pytest.raises(redis.exceptions.TryAgainError):
        client.eval(script % "KEYS[1], KEYS[2]", 2, one, two)
    assert client.get(one) == b"before"
    nodes.give_up(slot)
