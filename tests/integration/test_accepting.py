"""Idempotency keys, batches with an outcome each, due times, durability."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, health, janitor, keys, levels, looks, messages, tasks, wanted
from bus.tasks import Wanted
from tests.support.desk import Desk
from tests.support.nemesis import FailureSimulator


def codes(outcomes: list[tasks.Accepted]) -> list[str]:
    """Per task its state, `again` for a repeat, or the code of its error."""
    return [
        each.error.code if each.error else each.state if each.new else "again"
        for each in outcomes
    ]


def forget_result(client: redis.Redis, topic: str) -> None:
    """What trimming does once thousands of results came after."""
    client.delete(bus.result_stream(topic), keys.named("done", topic))


def seen(client: redis.Redis, topic: str) -> list[dict[str, str]]:
    """Both generations of known keys."""
    both: Any = [client.hgetall(keys.named(name, topic)) for name in ("seen0", "seen1")]
    return list(both)


# --- idempotency keys


def test_the_same_key_is_the_same_task(test_topic: str) -> None:
    first = bus.enqueue_task(test_topic, {"n": 1, "m": 2}, idempotency_key="order 7")
    again = bus.enqueue_task(test_topic, {"m": 2, "n": 1}, idempotency_key="order 7")

    assert first == again == str(uuid.UUID(first))
    assert bus.stats(test_topic)["accepted"] == 1


def test_a_key_means_another_task_elsewhere(test_topic: str) -> None:
    ids = {
        wanted.keyed_id("", test_topic, "a"),
        wanted.keyed_id("", test_topic, "b"),
        wanted.keyed_id("", f"{test_topic}-2", "a"),
        wanted.keyed_id("ann", test_topic, "a"),
        wanted.keyed_id("an", test_topic, "na"),
    }

    assert len(ids) == 5
    assert {uuid.UUID(each).version for each in ids} == {8}
    task_id = bus.enqueue_task(test_topic, 1, idempotency_key="a", principal="ann")
    assert task_id == wanted.keyed_id("ann", test_topic, "a")


def test_a_key_with_another_payload_is_a_conflict(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1}, idempotency_key="a")

    with pytest.raises(errors.TaskConflict, match=task_id):
        bus.enqueue_task(test_topic, {"n": 1.0}, idempotency_key="a")

    assert bus.get_task(task_id).payload == {"n": 1}


def test_a_repeat_is_known_when_the_result_is_long_trimmed(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, idempotency_key="a")
    desk.complete(desk.one())
    forget_result(redis_client, test_topic)

    again = bus.enqueue_task(test_topic, 1, idempotency_key="a")
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(test_topic, 2, idempotency_key="a")

    assert again == task_id
    assert bus.stats(test_topic)["backlog"] == 0
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


FATES = (
    *("waiting", "delayed", "running", "retrying", "done", "dead", "edited"),
    *("cancelled", "discarded", "undone", "replayed"),
)


def meet(fate: str, desk: Desk, task_id: str) -> None:
    """Bring a task, just sent, to its fate."""
    if fate in ("waiting", "delayed"):
        return
    if fate == "cancelled":
        bus.cancel(task_id)
        return
    item = desk.one()
    if fate == "done":
        desk.complete(item)
    elif fate != "running":
        desk.fail(item, final=fate != "retrying")
    if fate in ("discarded", "undone"):
        bus.discard(task_id)
    if fate == "undone":
        bus.undo(task_id)
    if fate == "replayed":
        bus.replay(task_id)
    if fate == "edited":
        bus.replay(task_id, payload={"another": "payload"})


@pytest.mark.parametrize("named", ["key", "id"])
@pytest.mark.parametrize("fate", FATES)
def test_a_repeat_is_a_repeat_whatever_became_of_the_task(
    test_topic: str, fate: str, named: str
) -> None:
    name: dict[str, Any] = {"idempotency_key": "a"}
    if named == "id":
        name = {"task_id": "0198c0de-0000-7000-8000-00000000abcd"}
    delay_s = 3_600 if fate == "delayed" else None
    task_id = bus.enqueue_task(test_topic, {"n": 1, "m": 1}, delay_s=delay_s, **name)
    meet(fate, Desk(test_topic), task_id)
    before = bus.get_task(task_id)

    [again] = tasks.accept(test_topic, [Wanted({"m": 1, "n": 1}, **name)])
    [other] = tasks.accept(test_topic, [Wanted({"m": 1, "n": 2}, **name)])

    assert (again.id, again.new, again.error) == (task_id, False, None)
    assert again.state == before.state
    assert isinstance(other.error, errors.TaskConflict)
    assert bus.get_task(task_id) == before
    assert bus.stats(test_topic)["accepted"] == 1


def test_the_payload_that_an_edit_put_in_its_place_is_the_tasks_too(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    meet("edited", desk, task_id)
    desk.complete(desk.one())

    for payload in (1, {"another": "payload"}):
        assert bus.enqueue_task(test_topic, payload, task_id=task_id) == task_id
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(test_topic, 2, task_id=task_id)


def test_a_chosen_id_is_known_for_a_while_without_its_result_and_free_after_that(
    test_topic: str, settings: Settings
) -> None:
    desk = Desk(test_topic)
    bus.set_limits(test_topic, results_keep=0)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.complete(desk.one())

    # Nothing is left to compare with: it is taken for the same.
    assert bus.enqueue_task(test_topic, 2, task_id=task_id) == task_id
    assert bus.stats(test_topic)["backlog"] == 0

    settings.MESH_DONE_WINDOW_S = -1
    janitor.trim(test_topic)
    bus.enqueue_task(test_topic, 2, task_id=task_id)

    assert bus.get_task(task_id).payload == 2
    assert bus.get_task(task_id).state == "waiting"


def test_concurrent_sends_with_one_key_are_one_task(test_topic: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        sends = [
            pool.submit(bus.enqueue_task, test_topic, 1, idempotency_key="a")
            for _ in range(40)
        ]
        ids = {send.result() for send in sends}

    assert len(ids) == 1
    assert bus.stats(test_topic)["accepted"] == 1


def test_a_key_is_remembered_for_two_generations_of_a_day(
    test_topic: str, redis_client: redis.Redis
) -> None:
    def a_day_passes() -> None:
        for name in ("seen0", "seen1"):
            key = keys.named(name, test_topic)
            if since := redis_client.hget(key, "@"):
                redis_client.hset(key, "@", int(str(since)) - 86_400_000)

    first = bus.enqueue_task(test_topic, 1, idempotency_key="first")
    lives = redis_client.pttl(keys.named("seen0", test_topic))
    assert 172_000_000 < int(str(lives)) <= 172_800_000
    a_day_passes()
    second = bus.enqueue_task(test_topic, 1, idempotency_key="second")

    [zero, one] = seen(redis_client, test_topic)
    assert (first in zero, second in one) == (True, True)
    assert bus.enqueue_task(test_topic, 1, idempotency_key="first") == first
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(test_topic, 2, idempotency_key="first")

    a_day_passes()
    third = bus.enqueue_task(test_topic, 1, idempotency_key="third")

    [zero, one] = seen(redis_client, test_topic)
    assert zero.keys() == {"@", third}
    assert one.keys() == {"@", second}


def test_a_generation_that_is_full_makes_room_early_and_doctor_says_so(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_SEEN_MAX = 8  # four a generation, its marks among them
    ids = [
        bus.enqueue_task(test_topic, n, idempotency_key=f"key {n}") for n in range(7)
    ]

    [zero, one] = seen(redis_client, test_topic)
    assert zero.keys() == {"@", "@early", *ids[5:]}
    assert one.keys() == {"@", "@early", *ids[3:5]}
    # The newest of both are known, the oldest made room.
    assert bus.enqueue_task(test_topic, 3, idempotency_key="key 3") == ids[3]
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(test_topic, "other", idempotency_key="key 6")
    found = {check.name: check for check in health.checks()}
    assert found["keys"].status == health.WARN
    assert test_topic in found["keys"].says


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\udc00", 7, b"a"])
def test_what_is_no_key_is_refused(test_topic: str, key: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="idempotency key"):
        bus.enqueue_task(test_topic, 1, idempotency_key=key)


def test_an_id_and_a_key_do_not_go_together(test_topic: str) -> None:
    with pytest.raises(errors.InvalidOption, match="not both"):
        bus.enqueue_task(test_topic, 1, idempotency_key="a", task_id=str(uuid.uuid4()))


def test_at_maxmemory_a_key_is_not_learned_without_its_task(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 0)
    redis_client.config_set("maxmemory", 1)

    [outcome] = tasks.accept(test_topic, [Wanted(1, idempotency_key="a")])

    redis_client.config_set("maxmemory", 0)
    assert isinstance(outcome.error, errors.BusUnavailable)
    assert seen(redis_client, test_topic) == [{}, {}]


# --- accept


def test_every_task_of_a_batch_has_its_own_outcome(test_topic: str) -> None:
    known = bus.enqueue_task(test_topic, {"n": 1})

    outcomes = tasks.accept(
        test_topic,
        [
            Wanted({"n": 0}),
            Wanted({"n": 1}, known),
            Wanted({"n": 2}, known),
            Wanted(float("nan")),
            Wanted(b'{"n":3}'),
            Wanted(1, "no uuid"),
            Wanted(1, delay_s=-1),
            Wanted(1, delay_s=60),
            Wanted(1, maxlen=1),
            Wanted(1, max_attempts=0),
            Wanted("x" * 300_000),
            Wanted(b'"' + b"x" * 300_000 + b'"'),
            Wanted(1, idempotency_key="k"),
            Wanted(1, idempotency_key="k"),
            Wanted(2, idempotency_key="k"),
        ],
    )

    assert codes(outcomes) == [
        "waiting",
        "again",
        "task_conflict",
        "invalid_payload",
        "waiting",
        "invalid_name",
        "invalid_option",
        "delayed",
        "topic_full",
        "invalid_option",
        "payload_too_large",
        "payload_too_large",
        "waiting",
        "again",
        "task_conflict",
    ]
    assert bus.get_task(outcomes[4].id).payload == {"n": 3}
    assert bus.stats(test_topic)["backlog"] == 5


def test_a_batch_stays_in_order_over_many_round_trips(test_topic: str) -> None:
    outcomes = tasks.accept(
        test_topic, [Wanted(n if n % 7 else float("inf")) for n in range(450)]
    )

    assert codes(outcomes) == [
        "waiting" if n % 7 else "invalid_payload" for n in range(450)
    ]
    assert [bus.get_task(each.id).payload for each in outcomes[1:7]] == [*range(1, 7)]


def test_a_batch_that_fills_its_topic_is_accepted_up_to_the_bound(
    test_topic: str,
) -> None:
    bus.set_limits(test_topic, backlog_max=150)

    outcomes = tasks.accept(test_topic, [Wanted(n) for n in range(200)])

    assert codes(outcomes) == ["waiting"] * 150 + ["topic_full"] * 50


def test_nothing_of_nothing_is_accepted(test_topic: str) -> None:
    assert tasks.accept(test_topic, []) == []


@pytest.mark.parametrize("topic", ["", "agents", "a}"])
def test_a_topic_that_is_none_is_raised(redis_client: redis.Redis, topic: str) -> None:
    with pytest.raises(errors.InvalidName):
        tasks.accept(topic, [Wanted(1)])


def test_the_asyncio_twin_gives_the_same_outcomes_and_holds_no_thread(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(test_topic)
    done = bus.enqueue_task(test_topic, 1)
    desk.complete(desk.one())
    batch = [Wanted(1, done), Wanted(2, done), Wanted(3), Wanted(set())]

    async def accept() -> list[tasks.Accepted]:
        threads = threading.active_count()
        outcomes = await tasks.aaccept(test_topic, batch)
        assert threading.active_count() == threads
        return outcomes

    expected = ["again", "task_conflict", "waiting", "invalid_payload"]
    assert codes(asyncio.run(accept())) == expected
    assert codes(tasks.accept(test_topic, batch)) == expected


def test_an_outage_is_an_outcome_that_says_what_may_have_been_written(
    test_topic: str,
    failure_simulator: FailureSimulator,
    settings: Any,
) -> None:
    settings.MESH_SEND_RETRY_S = 0.2
    bus.enqueue_task(test_topic, 0)
    failure_simulator.lose_replies(every=1)

    outcomes = tasks.accept(test_topic, [Wanted(n) for n in range(3)])

    assert codes(outcomes) == ["outcome_unknown"] * 3
    failure_simulator.heal()
    again = [Wanted(n, each.id) for n, each in enumerate(outcomes)]
    assert {each.error for each in tasks.accept(test_topic, again)} == {None}
    assert bus.stats(test_topic)["backlog"] == 4


# --- due times


def test_a_task_is_due_at_a_time_of_the_server(test_topic: str) -> None:
    at_ms = int(time.time() * 1000) + 60_000

    later, past = tasks.accept(
        test_topic, [Wanted(1, run_at_ms=at_ms), Wanted(1, run_at_ms=1)]
    )

    assert (later.state, past.state) == ("delayed", "waiting")
    assert bus.get_task(later.id).due_at == messages.iso(at_ms)
    looks.promote(test_topic)
    assert bus.get_task(later.id).state == "delayed"


@pytest.mark.parametrize("at", [-1, 1.5, True, "now", 10**15])
def test_a_time_that_is_none_is_refused(test_topic: str, at: Any) -> None:
    [outcome] = tasks.accept(test_topic, [Wanted(1, run_at_ms=at)])

    assert codes([outcome]) == ["invalid_option"]


def test_a_delay_and_a_time_do_not_go_together(test_topic: str) -> None:
    [outcome] = tasks.accept(test_topic, [Wanted(1, run_at_ms=1, delay_s=1)])

    assert "not both" in str(outcome.error)


# --- durability


def test_an_acknowledgement_means_what_the_server_does(
    test_topic: str, redis_client: redis.Redis
) -> None:
    levels.forget()
    assert tasks.durability() == "aof"
    bus.enqueue_task(test_topic, 1, durability="aof")
    redis_client.config_set("appendonly", "no")
    try:
        assert tasks.durability() == "aof"  # asked for at most every 5 s
        levels.forget()

        assert tasks.durability() == asyncio.run(tasks.adurability()) == "memory"
        bus.enqueue_task(test_topic, 1, durability="memory")
        with pytest.raises(errors.InvalidOption, match="append-only"):
            bus.enqueue_task(test_topic, 1, durability="aof")
        with pytest.raises(errors.InvalidOption, match="append-only"):
            asyncio.run(bus.aenqueue_task(test_topic, 1, durability="aof"))
    finally:
        redis_client.config_set("appendonly", "yes")
        levels.forget()
    assert bus.stats(test_topic)["backlog"] == 2


@pytest.mark.parametrize("level", ["replicated:1", "", "AOF", 1])
def test_a_level_the_mesh_does_not_give_is_refused_not_lowered(
    test_topic: str, level: Any
) -> None:
    with pytest.raises(errors.InvalidOption, match="durability"):
        bus.enqueue_task(test_topic, 1, durability=level)

    assert bus.stats(test_topic)["backlog"] == 0


def test_a_topic_that_somebody_damaged_refuses_its_own_tasks_only(
    test_topic: str, redis_client: redis.Redis
) -> None:
    damaged = f"{test_topic}-2"
    redis_client.set(keys.named("tasks", damaged), "not ours")
    wanted_ = [(test_topic, Wanted(1)), (damaged, Wanted(2)), (test_topic, Wanted(3))]

    for accepted in (tasks.accept_each, lambda w: asyncio.run(tasks.aaccept_each(w))):
        outcomes = accepted(wanted_)
        assert codes(outcomes) == ["waiting", "damaged_key", "waiting"]

    assert bus.stats(test_topic)["waiting"] == 4
