"""Every way a task changes its state, with who may do it and what a repeat comes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import redis
from pytest_django import Settings

import bus
from bus import deliveries, errors, judge, keys, looks, scripts
from bus.deliveries import Delivery
from tests.support.desk import GROUP, Desk
from tests.support.waiting import wait_until

T = TypeVar("T")
TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"
UNKNOWN = "0198c0de-0000-7000-8000-000000000000"
PAYLOAD = {"v": 1}


@pytest.fixture
def desk(test_topic: str) -> Desk:
    return Desk(test_topic)


def state(topic: str, task_id: str = TASK_ID) -> str:
    return bus.get_task(task_id, topic).state


def drift(topic: str) -> int:
    return int(bus.stats(topic)["ledger"]["drift"])


def make_due(client: redis.Redis, topic: str, ids: Sequence[str]) -> None:
    """Let the time of delayed tasks come, without waiting for it."""
    client.zadd(keys.named("delayed", topic), dict.fromkeys(ids, 1), xx=True)


# --- enqueue: the same task again


def bring(desk: Desk, where: str) -> None:
    """A task of PAYLOAD that has come that far."""
    delay_s = 3_600 if "delayed" in where else None
    bus.enqueue_task(desk.topic, PAYLOAD, task_id=TASK_ID, delay_s=delay_s)
    if where in ("waiting", "delayed"):
        return
    if where.startswith("cancelled"):
        bus.cancel(TASK_ID, desk.topic)
        return
    item = desk.one()
    if where == "done":
        desk.complete(item)
    elif where == "retrying":
        desk.fail(item)
    elif where in ("dead", "discarded"):
        desk.fail(item, final=True)
    if where == "discarded":
        bus.discard(TASK_ID, desk.topic)


PLACES = ["waiting", "delayed", "running", "retrying", "done", "dead", "discarded"]
PLACES += ["cancelled", "cancelled delayed"]


@pytest.mark.parametrize("where", PLACES)
def test_a_task_sent_again_is_not_a_second_task(desk: Desk, where: str) -> None:
    bring(desk, where)
    before = bus.get_task(TASK_ID, desk.topic)

    again = bus.enqueue_task(desk.topic, {"v": 1}, task_id=TASK_ID)

    assert again == TASK_ID
    assert bus.get_task(TASK_ID, desk.topic) == before
    assert bus.stats(desk.topic)["accepted"] == 1


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("other", [{"v": 2}, {}, None], ids=repr)
def test_an_id_never_stands_for_two_payloads(
    desk: Desk, where: str, other: Any
) -> None:
    bring(desk, where)
    before = bus.get_task(TASK_ID, desk.topic)

    with pytest.raises(errors.TaskConflict, match=TASK_ID):
        bus.enqueue_task(desk.topic, other, task_id=TASK_ID)

    assert bus.get_task(TASK_ID, desk.topic) == before


def test_the_same_id_twice_in_one_batch_is_one_task(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, [1, 1], task_ids=[TASK_ID, TASK_ID])

    assert ids == [TASK_ID, TASK_ID]
    assert bus.stats(test_topic)["backlog"] == 1


def test_of_two_payloads_under_one_id_in_one_batch_the_first_stands(
    test_topic: str,
) -> None:
    with pytest.raises(errors.TaskConflict, match=TASK_ID):
        bus.enqueue_many(test_topic, [1, 2], task_ids=[TASK_ID, TASK_ID])

    assert bus.get_task(TASK_ID, test_topic).payload == 1
    assert bus.stats(test_topic)["backlog"] == 1


def test_of_many_senders_of_one_task_one_is_first(test_topic: str) -> None:
    def send(_: int) -> str:
        return bus.enqueue_task(test_topic, PAYLOAD, task_id=TASK_ID)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {TASK_ID}

    assert bus.stats(test_topic)["backlog"] == 1


def test_one_id_in_two_topics_is_two_tasks(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1, task_id=TASK_ID)

    bus.enqueue_task(f"{test_topic}:b", 2, task_id=TASK_ID)

    assert bus.get_task(TASK_ID, f"{test_topic}:b").payload == 2


# --- delayed


def test_a_delayed_task_starts_when_it_is_due_and_not_before(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)

    looks.promote(test_topic)
    early = state(test_topic, task_id)
    redis_client.zincrby(keys.named("delayed", test_topic), -60_000, task_id)
    looks.promote(test_topic)

    assert early == "delayed"
    assert state(test_topic, task_id) == "waiting"


def test_the_janitor_is_told_when_to_look_again(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1, delay_s=60)

    assert 50 < looks.promote(test_topic) <= 60


def test_all_that_is_due_is_promoted_in_its_order(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(250), delay_s=3_600)
    key = keys.named("delayed", test_topic)
    redis_client.zadd(key, {task_id: n for n, task_id in enumerate(ids)}, xx=True)

    looks.promote(test_topic)

    entries = bus.read_group(test_topic, GROUP, "me", 1_000, block_ms=0)
    assert [fields["id"] for _, fields in entries] == ids
    assert (bus.stats(test_topic)["delayed"], drift(test_topic)) == (0, 0)


def test_two_janitors_promote_a_task_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(200), delay_s=3_600)
    make_due(redis_client, test_topic, ids)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(looks.promote, [test_topic] * 8))

    assert redis_client.xlen(bus.task_stream(test_topic)) == 200


def test_a_delayed_task_keeps_when_it_was_enqueued(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=3_600)
    before = bus.get_task(task_id, test_topic)
    wait_until(lambda: redis_client.time()[1] // 1_000 % 10 == 0)  # another ms
    make_due(redis_client, test_topic, [task_id])

    looks.promote(test_topic)

    assert before.due_at is not None
    assert bus.get_task(task_id, test_topic).enqueued_at == before.enqueued_at


# --- cancel


@pytest.mark.parametrize("where", ["waiting", "delayed", "retrying"])
def test_a_task_that_does_not_run_is_cancelled_at_once(desk: Desk, where: str) -> None:
    bring(desk, where)

    assert bus.cancel(TASK_ID, desk.topic) == "cancelled"

    assert state(desk.topic) == "cancelled"
    assert desk.claim() == []
    assert (bus.stats(desk.topic)["cancelled"], drift(desk.topic)) == (1, 0)


def test_a_running_task_is_asked_to_stop(desk: Desk) -> None:
    bring(desk, "running")

    assert bus.cancel(TASK_ID, desk.topic) == "running"
    assert bus.cancel(TASK_ID, desk.topic) == "running"

    task = bus.get_task(TASK_ID, desk.topic)
    assert (task.state, task.cancel_requested) == ("running", True)


def test_a_heartbeat_tells_which_tasks_were_cancelled(desk: Desk) -> None:
    ids = bus.enqueue_many(desk.topic, range(3))
    items = desk.claim(3)
    bus.cancel(ids[1], desk.topic)

    beat = desk.beat(*items)

    assert [item.id for item in beat.cancelled] == [ids[1]]
    assert beat.fenced == []


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda desk, item: desk.complete(item), "done"),
        (lambda desk, item: bus.ack(desk.topic, GROUP, item.sid), "done"),
        (lambda desk, item: desk.fail(item), "cancelled"),
        (lambda desk, item: desk.fail(item, final=True), "cancelled"),
        (lambda desk, item: desk.release(item), "cancelled"),
        (lambda desk, item: desk.lose(), "cancelled"),
    ],
    ids=["completed", "acknowledged", "failed", "gave up", "released", "lost"],
)
def test_only_a_completion_wins_against_a_cancel(
    desk: Desk, end: Callable[[Desk, Delivery], Any], expected: str
) -> None:
    bus.enqueue_task(desk.topic, PAYLOAD, task_id=TASK_ID)
    item = desk.one()
    bus.cancel(TASK_ID, desk.topic)

    end(desk, item)

    assert state(desk.topic) == expected
    assert desk.claim() == []
    assert drift(desk.topic) == 0


def test_a_task_cancelled_again_is_still_cancelled(desk: Desk) -> None:
    bring(desk, "cancelled")

    assert bus.cancel(TASK_ID, desk.topic) == "cancelled"
    assert bus.stats(desk.topic)["cancelled"] == 1


@pytest.mark.parametrize("where", ["done", "dead", "discarded"])
def test_a_task_that_has_ended_cannot_be_cancelled(desk: Desk, where: str) -> None:
    bring(desk, where)

    with pytest.raises(errors.NotCancellable, match=where):
        bus.cancel(TASK_ID, desk.topic)

    assert state(desk.topic) == where


def test_an_unknown_task_cannot_be_cancelled(desk: Desk) -> None:
    with pytest.raises(errors.TaskNotFound, match=UNKNOWN):
        bus.cancel(UNKNOWN, desk.topic)


# --- complete


def test_a_completed_task_is_done_with_its_result(desk: Desk) -> None:
    bring(desk, "waiting")

    assert desk.complete(desk.one(), result='{"a":1}') == ["ok"]

    task = bus.get_task(TASK_ID, desk.topic)
    assert (task.state, task.result) == ("done", {"a": 1})


def test_a_completion_sent_twice_is_a_duplicate(desk: Desk) -> None:
    bring(desk, "waiting")
    item = desk.one()
    desk.complete(item)

    assert desk.complete(item) == ["duplicate"]
    assert (bus.stats(desk.topic)["done"], bus.stats(desk.topic)["results"]) == (1, 1)


def test_a_task_twice_in_one_completion_gives_one_result(desk: Desk) -> None:
    bring(desk, "waiting")
    item = desk.one()

    outcomes = desk.complete(item, item)

    assert outcomes[0] == "ok"
    assert bus.stats(desk.topic)["done"] == bus.stats(desk.topic)["results"] == 1
    assert drift(desk.topic) == 0


@pytest.mark.parametrize("end", ["complete", "fail", "release"])
def test_an_owner_that_lost_its_task_is_fenced(desk: Desk, end: str) -> None:
    bring(desk, "waiting")
    stale = desk.one()
    desk.lose()
    fresh = Desk(desk.topic, "desk#00000002").one()

    outcome = getattr(desk, end)(stale)

    assert outcome in (["fenced"], "fenced", 0)
    assert fresh.fence != stale.fence
    assert state(desk.topic) == "running"


def test_failures_of_one_batch_go_each_its_own_way(desk: Desk) -> None:
    bus.enqueue_many(desk.topic, range(7))
    items = desk.claim(7)
    bus.cancel(items[3].id, desk.topic)
    desk.complete(items[4])
    desk.fail(items[5], delay_s=0)
    looks.promote(desk.topic)
    how: list[dict[str, Any]] = [
        {"delay_s": 60},
        {"final": True, "message": "no disk"},
        {"max_attempts": 1, "message": "no net"},
        {"message": "cancelled while it ran"},
        {"message": "it is done"},
        {"message": "it is somebody else's by now"},
        {"final": True, "message": "no disk"},
    ]

    outcomes = desk.fail_all(
        *(desk.failure(item, **how) for item, how in zip(items, how, strict=True))
    )

    assert outcomes == [
        *("delayed", "dead", "dead", "cancelled", "gone", "fenced", "dead"),
    ]
    stats = bus.stats(desk.topic)
    assert (stats["delayed"], stats["waiting"], stats["running"]) == (1, 1, 0)
    assert (stats["dead"], stats["cancelled"], stats["done"]) == (3, 1, 1)
    found = bus.dead_groups(desk.topic)
    groups = {row["error"]["message"]: row["count"] for row in found}
    assert groups == {"no disk": 2, "no net": 1}
    letters = {letter.id: letter for letter in bus.list_dead(desk.topic)}
    for item, payload in ((items[1], 1), (items[2], 2), (items[6], 6)):
        assert letters[item.id].payload == payload
        assert [one["attempt"] for one in letters[item.id].attempts] == [1]
    assert drift(desk.topic) == 0


def test_an_owner_that_got_its_task_back_is_fenced_with_the_old_delivery(
    desk: Desk,
) -> None:
    bring(desk, "waiting")
    stale = desk.one()
    desk.lose()
    fresh = desk.one()

    assert desk.complete(stale) == ["fenced"]
    assert desk.complete(fresh) == ["ok"]


def test_nobody_completes_the_task_of_another(desk: Desk) -> None:
    bring(desk, "waiting")
    item = desk.one()
    thief = Desk(desk.topic, "thief#00000001")

    assert thief.complete(item) == ["fenced"]
    assert thief.release(item) == 0
    assert thief.fail(item, final=True) == "fenced"
    assert [held.id for held in thief.beat(item).fenced] == [TASK_ID]
    assert desk.complete(item) == ["ok"]


def test_a_completion_that_comes_too_late_is_told_so(desk: Desk) -> None:
    bring(desk, "waiting")
    late = desk.one()
    desk.lose()
    desk.complete(desk.one())

    assert desk.complete(late) == ["gone"]
    assert bus.stats(desk.topic)["results"] == 1


def test_one_refused_completion_does_not_hold_up_the_others(desk: Desk) -> None:
    ids = bus.enqueue_many(desk.topic, range(3))
    items = desk.claim(3)
    bus.ack(desk.topic, GROUP, items[1].sid)

    outcomes = desk.complete(*items)

    assert (outcomes[0], outcomes[2]) == ("ok", "ok")
    assert outcomes[1] in ("gone", "duplicate")
    assert [state(desk.topic, task_id) for task_id in ids] == ["done"] * 3
    assert drift(desk.topic) == 0


# --- fail


def test_a_failed_task_comes_back_with_its_attempt_on_record(
    desk: Desk, redis_client: redis.Redis
) -> None:
    bring(desk, "waiting")

    assert desk.fail(desk.one(), message="no ink") == "delayed"

    task = bus.get_task(TASK_ID, desk.topic)
    assert (task.state, task.attempt) == ("delayed", 1)
    [attempt] = task.attempts
    assert (attempt["agent"], attempt["error"]["message"]) == ("desk", "no ink")
    make_due(redis_client, desk.topic, [TASK_ID])
    looks.promote(desk.topic)
    assert desk.one().record.attempt == 1


def test_a_failure_sent_twice_counts_once(desk: Desk) -> None:
    bring(desk, "waiting")
    item = desk.one()
    desk.fail(item)

    assert desk.fail(item) in ("fenced", "gone")
    assert len(bus.get_task(TASK_ID, desk.topic).attempts) == 1


@pytest.mark.parametrize(
    ("of_task", "of_topic", "of_handler", "expected"),
    [(1, 9, 9, 1), (2, 1, 1, 2), (None, 1, 9, 1), (None, 2, 1, 2), (None, None, 2, 2)],
)
def test_the_nearest_bound_of_attempts_counts(
    desk: Desk,
    redis_client: redis.Redis,
    of_task: int | None,
    of_topic: int | None,
    of_handler: int,
    expected: int,
) -> None:
    bus.set_limits(desk.topic, max_attempts=of_topic)
    bus.enqueue_task(desk.topic, 1, task_id=TASK_ID, max_attempts=of_task)

    tries = 0
    while state(desk.topic) != "dead":
        make_due(redis_client, desk.topic, [TASK_ID])
        looks.promote(desk.topic)
        desk.fail(desk.one(), max_attempts=of_handler)
        tries += 1

    assert tries == expected
    assert len(bus.get_task(TASK_ID, desk.topic).attempts) == expected


# --- release, heartbeat, lost leases


def test_a_released_task_costs_no_attempt_and_keeps_its_place(desk: Desk) -> None:
    ids = bus.enqueue_many(desk.topic, range(3))
    first = desk.one()

    assert desk.release(first) == 1

    assert state(desk.topic, ids[0]) == "waiting"
    again = desk.claim(3)
    assert [item.id for item in again] == ids
    assert again[0].record.attempt == 0
    assert again[0].fence != first.fence


def test_a_heartbeat_keeps_a_task(desk: Desk, settings: Settings) -> None:
    bring(desk, "waiting")
    item = desk.one()
    wait_until(lambda: idle_ms(desk) > 60)

    beat = desk.beat(item)

    assert beat.fenced == []
    assert judge.take(desk.topic, GROUP, desk.consumer, idle_ms=50) == 0


def idle_ms(desk: Desk) -> int:
    key = bus.task_stream(desk.topic)
    [row] = bus.get_redis().xpending_range(key, GROUP, "-", "+", 1)
    return int(row["time_since_delivered"])


def test_a_heartbeat_of_a_lost_task_does_not_steal_it_back(desk: Desk) -> None:
    bring(desk, "waiting")
    stale = desk.one()
    desk.lose()
    fresh = Desk(desk.topic, "desk#00000002")
    item = fresh.one()

    assert [held.id for held in desk.beat(stale).fenced] == [TASK_ID]
    assert fresh.complete(item) == ["ok"]


def test_a_task_that_loses_every_agent_is_poison(
    desk: Desk, settings: Settings
) -> None:
    settings.MESH_MAX_DELIVERIES = 3
    bring(desk, "waiting")

    for _ in range(3):
        assert desk.claim() or desk.claim(alone=True)
        desk.lose()

    [letter] = bus.list_dead(desk.topic)
    assert (letter.id, letter.error["reason"]) == (TASK_ID, "poison")
    assert [row["error"]["type"] for row in letter.attempts] == ["LeaseLost"] * 3
    assert drift(desk.topic) == 0


def test_a_suspect_is_given_alone(desk: Desk) -> None:
    bus.enqueue_many(desk.topic, ["suspect", "suspect too", "innocent"])
    for _ in range(2):
        assert len(desk.claim(2)) == 2
        desk.lose()

    beside_others = desk.claim(5)
    with_nothing_else = desk.claim(1, alone=True)

    assert [item.json for item in beside_others] == ['"innocent"']
    assert [item.json for item in with_nothing_else] == ['"suspect"']


# --- suspects


def suspects_for(topic: str, consumer: str, *, alone: bool = False) -> tuple[int, int]:
    """Suspects a consumer is to run, and how many tasks it got, in one claim."""
    args = deliveries.claim_args(GROUP, consumer, 1 if alone else 5, alone)
    claimed = deliveries.parse_claim(topic, scripts.run("claim", topic, args))
    return claimed.suspects, len(claimed.deliveries)


def lose_twice(desk: Desk, count: int) -> None:
    """Tasks whose agents were lost twice."""
    bus.enqueue_many(desk.topic, range(count))
    for _ in range(2):
        desk.claim(count)
        desk.lose()


def test_one_agent_at_a_time_makes_itself_empty_for_suspects(desk: Desk) -> None:
    lose_twice(desk, 2)

    assert suspects_for(desk.topic, "a#00000001") == (2, 0)
    assert suspects_for(desk.topic, "b#00000001") == (0, 0)
    assert suspects_for(desk.topic, "a#00000001") == (2, 0)
    # It runs one: the other one is anybody's.
    assert suspects_for(desk.topic, "a#00000001", alone=True) == (0, 1)
    assert suspects_for(desk.topic, "b#00000001") == (1, 0)


def test_an_agent_that_takes_too_long_to_be_empty_loses_its_turn(
    desk: Desk, redis_client: redis.Redis
) -> None:
    lose_twice(desk, 1)
    settings = keys.named("settings", desk.topic)

    suspects_for(desk.topic, "a#00000001")
    until, who = str(redis_client.hget(settings, "quiet")).split("|")
    redis_client.hset(settings, "quiet", f"{int(until) - 5_001}|{who}")

    assert who == "a#00000001"
    assert suspects_for(desk.topic, "b#00000001") == (1, 0)
