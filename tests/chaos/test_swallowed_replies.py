"""S4: the server did it and the answer never came; or it was asked twice at once."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import redis

import bus
from bus import connection, janitor, keys, looks, verbs
from bus.deliveries import Delivery
from tests.support import agents, chronicle, transitions
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds
from tests.support.resp_proxy import LOSE, PASS, TWICE, Fate, Request, RespProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SUITE = "S4 lost replies"
TASKS = int(os.environ.get("MESH_CHAOS_REPLIES", "3000"))
EVERY = 20
# What may be asked twice without harm. A claim may not: it is sent once, and whoever
# hears no answer reads what is his own.
REPEATABLE = {
    "enqueue",
    "complete",
    "finish",
    "fail",
    "release",
    "replay",
    "promote",
    "cancel",
}
T = TypeVar("T")
Behind = Callable[[Fate], contextlib.AbstractContextManager[RespProxy]]


@pytest.fixture
def behind(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Fate], contextlib.AbstractContextManager[RespProxy]]]:
    """`with behind(fate)`: this process and its children go through a proxy."""

    @contextlib.contextmanager
    def through(fate: Fate) -> Iterator[RespProxy]:
        for script in verbs.SCRIPTS.values():
            redis_client.script_load(script.text)  # each call is one EVALSHA
        with RespProxy(redis_url, fate) as proxy:
            monkeypatch.setenv("REDIS_URL", proxy.url)
            try:
                yield proxy
            finally:
                monkeypatch.setenv("REDIS_URL", redis_url)
                connection.reset()

    yield through


async def second_time_for_some(payload: int, task: bus.Task) -> Any:
    """Every tenth is tried again, every 25th dies; the answer tells whose it is."""
    if payload % 10 == 0 and task.attempt == 1:
        raise bus.Retry(0.01, "not yet")
    if payload % 25 == 24:
        raise bus.GiveUp("never")
    return {"id": task.id, "n": payload}


class Sender(threading.Thread):
    """Sends tasks one by one, now and then waits for what became of one."""

    def __init__(self, topic: str, numbers: range, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._topic, self._numbers, self._dice = topic, numbers, dice
        self.sent: dict[str, int] = {}  # id -> number
        self.strange: list[str] = []  # answers that were somebody else's

    def run(self) -> None:
        for number in self._numbers:
            task_id = bus.enqueue_task(self._topic, number)
            self.sent[task_id] = number
            if self._dice.random() < 0.05:
                self._look(task_id, number)

    def _look(self, task_id: str, number: int) -> None:
        task = bus.wait_result(task_id, self._topic, 30)
        same = (task.id, task.payload) == (task_id, number)
        if task.state == "done":
            same = same and task.result == {"id": task_id, "n": number}
        if not same or not task.ended:
            self.strange.append(f"{task_id} ({number}): {task}")


@pytest.mark.timeout(280)
def test_every_20th_script_call_loses_its_reply(
    test_topic: str,
    redis_client: redis.Redis,
    behind: Behind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = random.Random(chronicle.seed())
    offset, threads = dice.randrange(EVERY), 3

    def fate(request: Request) -> str:
        if request.calls % EVERY == offset:
            return LOSE
        twice = request.verb in REPEATABLE and request.number % 13 == 0
        return TWICE if twice else PASS

    share = TASKS // threads
    senders = [
        Sender(test_topic, range(n * share, (n + 1) * share), random.Random(n))
        for n in range(threads)
    ]
    handler = "tests.chaos.test_swallowed_replies:second_time_for_some"
    # Room for all rows: they are read back below.
    bus.set_limits(test_topic, results_keep=1_000_000)
    with (
        transitions.logged(monkeypatch),
        behind(fate) as proxy,
        agents.process(test_topic, handler, "--concurrency", "10"),
        agents.process(test_topic, handler, "--concurrency", "10"),
    ):
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(200)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60, "all have ended")

    sent = {task_id: n for sender in senders for task_id, n in sender.sent.items()}
    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    results = Counter(fields["id"] for _, fields in rows)
    dead = {letter.id for letter in bus.list_dead(test_topic, 10_000)}
    stats = bus.stats(test_topic)
    lost = [i for i in sent if i not in results and i not in dead]
    double = [i for i, n in results.items() if n > 1 or i in dead]
    assert [line for sender in senders for line in sender.strange] == []
    assert len(sent) == share * threads
    assert (lost, double, {*results, *dead} - set(sent)) == ([], [], set())
    assert dead == {i for i, n in sent.items() if n % 25 == 24}
    assert stats["lost"] == 0  # nobody was taken for dead because of a lost answer
    assert stats["ledger"]["drift"] == 0
    assert wounds(redis_client, test_topic) == []
    assert transitions.faults(redis_client, test_topic) == []
    assert proxy.lost > len(sent) / EVERY  # senders alone call once per task
    counters: Any = redis_client.hgetall(keys.named("counters", test_topic))
    chronicle.record(
        SUITE,
        faults=_told(proxy),
        tasks=len(sent),
        executions=stats["done"] + stats["retried"] + stats["dead"],
        refused=int(counters.get("repeated", 0)),
        lost=len(lost),
        double=len(double),
        repaired=int(counters.get("repaired", 0)),
    )


def _told(proxy: RespProxy) -> dict[str, int]:
    """What the proxy did, in words."""
    words = {LOSE: "reply lost", TWICE: "sent twice"}
    told: Counter[str] = Counter()
    for (fate, _), count in proxy.done.items():
        if fate in words:
            told[words[fate]] += count
    return dict(told)


def _insisted(action: Callable[[], T]) -> T:
    """Once more after an answer that did not come, as a janitor does a tick later."""
    for _ in range(5):
        with contextlib.suppress(bus.OutcomeUnknown):
            return action()
    raise AssertionError("five tries were not enough")


class Life:
    """One task after another through every verb, by three consumers."""

    def __init__(self, topic: str, client: redis.Redis) -> None:
        self.topic, self._client = topic, client
        self.ids: dict[str, str] = {}  # what the task is for -> id
        self.desk, self.other = Desk(topic), Desk(topic, "other#00000001")

    def live(self) -> None:
        self._complete_and_fail()
        self._hand_over()
        self._by_hand()
        self._operate()
        _insisted(lambda: janitor.trim(self.topic))

    def _complete_and_fail(self) -> None:
        names = ["done", "retried", "dead", "released", "robbed"]
        sent = bus.enqueue_many(self.topic, range(5))
        self.ids |= dict(zip(names, sent, strict=True))
        items = {item.id: item for item in self._claimed(self.desk, 5)}
        held = {name: items[self.ids[name]] for name in names}
        _insisted(lambda: self.desk.beat(*held.values()))
        assert _insisted(lambda: self.desk.complete(held["done"])) in (
            ["ok"],
            ["duplicate"],
        )
        self.desk.fail(held["retried"], delay_s=60)
        self.desk.fail(held["dead"], final=True)
        self.desk.release(held["released"])
        self._client.zadd(keys.named("delayed", self.topic), {self.ids["retried"]: 1})
        _insisted(lambda: looks.promote(self.topic))

    def _hand_over(self) -> None:
        _insisted(self.desk.lose)  # "robbed" goes to whoever comes next
        items = self._claimed(self.other, 5)
        assert {item.id for item in items} == {
            self.ids[name] for name in ("retried", "released", "robbed")
        }
        _insisted(lambda: self.other.complete(*items))

    def _by_hand(self) -> None:
        for name in ("acked", "moved"):
            self.ids[name] = bus.enqueue_task(self.topic, name)
        held = {item.id: item for item in self._claimed(self.desk, 2)}
        bus.ack(self.topic, GROUP, held[self.ids["acked"]].sid)
        bus.move_to_dead(self.topic, held[self.ids["moved"]].sid, {"why": "no"})

    def _operate(self) -> None:
        self.ids["cancelled"] = bus.enqueue_task(self.topic, "c", delay_s=60)
        bus.cancel(self.ids["cancelled"], self.topic)
        bus.discard(self.ids["moved"], self.topic)
        bus.undo(self.ids["moved"], self.topic)
        bus.pause(self.topic)
        bus.resume(self.topic)
        bus.replay(self.ids["dead"], self.topic)
        [again] = self._claimed(self.other, 1)
        assert (again.id, again.record.epoch) == (self.ids["dead"], 1)
        self.other.release(again)

    def _claimed(self, desk: Desk, want: int) -> list[Delivery]:
        """A claim is never repeated: what its lost answer held is one's own."""
        try:
            return desk.claim(want)
        except bus.OutcomeUnknown:
            return _insisted(desk.recover)

    def outcome(self) -> dict[str, Any]:
        """How every task stands, and every count but that of repeats."""
        counters: Any = self._client.hgetall(keys.named("counters", self.topic))
        counters.pop("repeated", None)
        told: dict[str, Any] = {"counters": counters}
        for name, task_id in self.ids.items():
            task = bus.get_task(task_id, self.topic)
            told[name] = (task.state, task.epoch, task.attempt)
        return told


def test_each_verb_may_lose_each_of_its_replies_or_be_sent_twice(
    redis_client: redis.Redis,
    behind: Behind,
    monkeypatch: pytest.MonkeyPatch,
    cleanup_test_data: None,
) -> None:
    """A whole life again and again, each time with one call gone wrong."""
    calls: Counter[str] = Counter()
    with transitions.logged(monkeypatch):

        def count(request: Request) -> str:
            calls[request.verb] += 1
            return PASS

        smooth = _life("smooth", redis_client, behind, count)
        faults: Counter[str] = Counter()
        for verb in sorted(calls):
            for place in range(1, calls[verb] + 1):
                for fate in (LOSE, TWICE):
                    if fate == TWICE and verb not in REPEATABLE:
                        continue
                    once = _at(verb, place, fate)
                    name = f"{verb.replace('_', '-')}-{place}-{fate}"
                    told = _life(name, redis_client, behind, once)
                    assert told == smooth, name
                    faults[f"{fate} {verb}"] += 1

    assert {"enqueue", "claim", "complete", "fail", "release", "replay"} <= set(calls)
    assert {"reclaim", "promote", "discard", "undo", "cancel", "ack"} <= set(calls)
    kinds: Counter[str] = Counter()
    for what, times in faults.items():
        kinds["reply lost" if what.startswith(LOSE) else "sent twice"] += times
    tasks = faults.total() * (len(smooth) - 1)
    chronicle.record(SUITE, faults=kinds, tasks=tasks, lost=0, double=0)


def _at(verb: str, place: int, fate: str) -> Fate:
    return lambda request: (
        fate if (request.verb, request.number) == (verb, place) else PASS
    )


def _life(name: str, client: redis.Redis, behind: Behind, fate: Fate) -> dict[str, Any]:
    topic = f"life-{name}"
    with behind(fate):
        life = Life(topic, client)
        life.live()
    assert wounds(client, topic) == [], name
    assert transitions.faults(client, topic) == [], name
    return life.outcome()
