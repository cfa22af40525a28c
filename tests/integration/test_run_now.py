"""A task run now: started where it is delayed, replayed or sent again where not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import again, keys, models, scripts
from bus.messages import iso_ms
from bus.timeline import timeline
from tests.support.api import api, problem
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.pages import looked_at


def a_done_one(topic: str, payload: Any = 1, **more: Any) -> str:
    task_id = bus.enqueue_task(topic, payload, **more)
    desk = Desk(topic)
    desk.complete(desk.one())
    return task_id


def a_dead_one(topic: str, payload: Any = 1) -> str:
    task_id = bus.enqueue_task(topic, payload)
    desk = Desk(topic)
    desk.fail(desk.one(), final=True)
    return task_id


# --- delayed: it starts


def test_a_scheduled_task_starts_at_once(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1}, delay_s=3_600, max_attempts=2)

    assert bus.run_now(task_id, test_topic) == task_id

    task = bus.get_task(task_id)
    assert (task.state, task.due_at, task.max_attempts) == ("waiting", None, 2)
    assert (task.payload, task.attempt) == ({"n": 1}, 0)
    assert Desk(test_topic).one().id == task_id


def test_a_task_between_its_attempts_is_not_waited_for(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id, desk = bus.enqueue_task(test_topic, 1), Desk(test_topic)
    desk.fail(desk.one())
    before = bus.get_task(task_id)

    bus.run_now(task_id)
    item = desk.one()

    assert before.state == "delayed"
    assert item.record.attempt == 1, "the attempts that failed still count"
    assert item.enqueued_ms == iso_ms(before.enqueued_at)
    desk.complete(item)
    assert bus.get_task(task_id).attempt == 2
    assert wounds(redis_client, test_topic) == []


def test_its_timeline_says_so(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    bus.run_now(task_id)

    rows = timeline(bus.get_task(task_id))

    assert [row["what"] for row in rows] == ["enqueued", "run now"]
    assert rows[1]["at"]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_waits_or_runs_is_not_run_again(test_topic: str, state: str) -> None:
    task_id, desk = bus.enqueue_task(test_topic, 1), Desk(test_topic)
    if state == "running":
        desk.one()

    with pytest.raises(bus.NotRunnable) as refused:
        bus.run_now(task_id, test_topic)

    assert refused.value.facts == {"state": state}
    assert isinstance(refused.value, bus.Conflict)


def test_an_unknown_task_is_told(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    unknown = keys.foreign_id(test_topic, "1-1")

    for topic in (test_topic, None):
        with pytest.raises(bus.TaskNotFound):
            bus.run_now(unknown, topic)
    with pytest.raises(bus.InvalidName):
        bus.run_now("x", test_topic)


def test_of_many_at_once_one_starts_it(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    told: list[str] = []
    gate = threading.Barrier(16)

    def run() -> None:
        gate.wait()
        try:
            bus.run_now(task_id, test_topic)
            told.append("started")
        except bus.NotRunnable as exc:
            told.append(exc.facts["state"])

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(told) == ["started"] + ["waiting"] * 15
    assert bus.stats(test_topic)["backlog"] == 1


def test_a_send_that_is_repeated_is_told_by_its_mark(test_topic: str) -> None:
    """The race: the answer was lost, and the task has failed and is delayed again."""
    task_id, desk = bus.enqueue_task(test_topic, 1, delay_s=60), Desk(test_topic)

    first = scripts.run("run_now", test_topic, [task_id, "mark", ""])
    desk.fail(desk.one())
    repeat = scripts.run("run_now", test_topic, [task_id, "mark", ""])
    other = scripts.run("run_now", test_topic, [task_id, "other", ""])

    assert (first, repeat, other) == ("started", "repeat", "started")


def test_a_task_whose_payload_is_being_sought_is_left_to_the_audit(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    redis_client.delete(keys.named("parked", test_topic))

    with pytest.raises(bus.NotRunnable):
        bus.run_now(task_id, test_topic)

    assert bus.get_task(task_id).state == "delayed"


def test_it_starts_where_memory_is_full(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    redis_client.config_set("maxmemory", 1)

    bus.run_now(task_id, test_topic)

    redis_client.config_set("maxmemory", 0)
    assert bus.get_task(task_id).state == "waiting"


# --- dead: it is replayed


def test_a_dead_one_is_replayed(test_topic: str) -> None:
    task_id = a_dead_one(test_topic)

    assert bus.run_now(task_id, by="ann") == task_id

    task = bus.get_task(task_id)
    assert (task.state, task.epoch, task.again_of) == ("waiting", 1, None)
    assert task.replays[0]["by"] == "ann"
    assert bus.stats(test_topic)["replayed"] == 1


# --- ended otherwise: a new task


def test_a_done_one_is_sent_again_as_a_new_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = a_done_one(test_topic, {"n": [1, None]})

    new_id = bus.run_now(task_id)

    old, new = bus.get_task(task_id), bus.get_task(new_id)
    assert new_id != task_id
    assert (old.state, old.again_of) == ("done", None)
    assert (new.state, new.payload, new.again_of) == (
        "waiting",
        {"n": [1, None]},
        task_id,
    )
    assert bus.stats(test_topic)["accepted"] == 2
    assert wounds(redis_client, test_topic) == []


def test_what_it_is_of_stays_with_it_whatever_becomes_of_it(test_topic: str) -> None:
    old, desk = a_done_one(test_topic), Desk(test_topic)
    done, dead, cancelled, discarded = (bus.run_now(old) for _ in range(4))

    desk.complete(desk.one())
    desk.fail(desk.one())
    bus.run_now(dead)
    bus.cancel(cancelled)
    desk.fail(desk.one(), final=True)
    desk.fail(desk.one(), final=True)
    bus.discard(discarded)
    bus.replay(dead)

    tasks = [bus.get_task(each) for each in (done, dead, cancelled, discarded)]
    assert [task.state for task in tasks] == [
        *("done", "waiting", "cancelled", "discarded")
    ]
    assert [task.again_of for task in tasks] == [old] * 4


@pytest.mark.parametrize("end", ["cancelled", "discarded"])
def test_what_was_given_up_is_sent_again_too(test_topic: str, end: str) -> None:
    if end == "cancelled":
        task_id = bus.enqueue_task(test_topic, {"n": 1})
        bus.cancel(task_id)
    else:
        task_id = a_dead_one(test_topic, {"n": 1})
        bus.discard(task_id)

    new = bus.get_task(bus.run_now(task_id))

    assert (new.payload, new.again_of) == ({"n": 1}, task_id)
    assert bus.get_task(task_id).state == end


@pytest.mark.parametrize("end", ["done", "cancelled", "discarded", "dead"])
def test_what_it_was_sent_with_it_has_again(test_topic: str, end: str) -> None:
    """Also the one after: a run of a run is allowed as much."""
    ends: dict[str, Callable[[Desk, str], Any]] = {
        "done": lambda desk, _: desk.complete(desk.one()),
        "cancelled": lambda _, each: bus.cancel(each),
        "discarded": lambda desk, each: (
            desk.fail(desk.one(), final=True),
            bus.discard(each),
        ),
        "dead": lambda desk, _: desk.fail(desk.one(), final=True),
    }
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, max_attempts=2, timeout_s=2.5)
    told = []

    for _ in range(2):
        ends[end](desk, task_id)
        told.append(bus.get_task(task_id))
        task_id = bus.run_now(task_id)
    told.append(bus.get_task(task_id))

    assert [task.state for task in told] == [end, end, "waiting"]
    assert [(task.max_attempts, task.timeout_s) for task in told] == [(2, 2.5)] * 3


@pytest.mark.parametrize(
    "row",
    [
        '"max_attempts":true,"timeout_s":true',
        '"max_attempts":0,"timeout_s":0',
        '"max_attempts":1e9,"timeout_s":1e99',
        '"max_attempts":"9","timeout_s":[1]',
    ],
)
def test_a_row_by_hand_allows_nothing_that_a_sender_may_not(
    test_topic: str, redis_client: redis.Redis, row: str
) -> None:
    """Somebody wrote the result of a task that is acknowledged by hand."""
    task_id = bus.enqueue_task(test_topic, 1)
    text = f'{{"id":"{task_id}","task":1,"fence":"1-1.0",{row}}}'
    bus.create_consumer_group(test_topic, "g")
    [(entry_id, _)] = bus.read_group(test_topic, "g", "me", block_ms=0)
    redis_client.xadd(bus.result_stream(test_topic), {"id": task_id, "json": text})
    bus.ack(test_topic, "g", entry_id)

    new = bus.get_task(bus.run_now(task_id))

    assert (new.payload, new.max_attempts, new.timeout_s) == (1, None, None)


def test_a_payload_of_null_is_one(test_topic: str) -> None:
    new = bus.get_task(bus.run_now(a_done_one(test_topic, None)))

    assert new.payload is None and new.state == "waiting"


def test_without_its_payload_it_is_refused(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = a_done_one(test_topic)
    redis_client.xtrim(bus.result_stream(test_topic), maxlen=0, approximate=False)

    with pytest.raises(bus.NotRunnable, match="payload left with its result"):
        bus.run_now(task_id, test_topic)

    assert bus.stats(test_topic)["accepted"] == 1


@pytest.mark.django_db
def test_a_payload_beyond_our_limits_is_refused_in_a_sentence(
    test_topic: str, redis_client: redis.Redis, operator: Client
) -> None:
    desk = Desk(test_topic)
    both: Any = {"json": '"' + "x" * 300_000 + '"'}
    redis_client.xadd(bus.task_stream(test_topic), both)
    item = desk.one()
    desk.complete(item)

    led = operator.post(f"/tasks/{item.id}/run?topic={test_topic}")

    assert led.status_code == 303
    assert "262,144" in looked_at(operator.get(led["Location"])).text


def test_a_full_topic_takes_no_second_run(test_topic: str) -> None:
    task_id = a_done_one(test_topic)
    bus.set_limits(test_topic, backlog_max=1)
    bus.enqueue_task(test_topic, 2)

    with pytest.raises(bus.TopicFull):
        bus.run_now(task_id)


# --- repeats


def test_the_same_request_is_the_same_run_wherever_the_task_is(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    delayed = bus.enqueue_task(test_topic, 1, delay_s=60)
    dead, done = a_dead_one(test_topic), a_done_one(test_topic)

    def run(task_id: str, request: str = "click") -> tuple[str, bool]:
        return again.ran(task_id, test_topic, "ann", "user:1", request)

    first = [run(each) for each in (delayed, dead, done)]
    waits = [run(each) for each in (delayed, dead, done)]
    desk.complete(*desk.claim(9))
    ended = [run(each) for each in (delayed, dead, done)]

    new = first[2][0]
    assert first == [(delayed, True), (dead, True), (new, True)]
    assert waits == ended == [(delayed, False), (dead, False), (new, False)]
    assert bus.stats(test_topic)["accepted"] == 4
    other = [run(done, "another click")[0], again.ran(done, test_topic, "bob")[0]]
    assert len({done, new, *other}) == 4


def test_a_task_that_was_started_and_died_is_not_replayed_by_the_same_request(
    test_topic: str,
) -> None:
    """The race: the answer was lost, and the attempt was the last one."""
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    bus.run_now(task_id, request_id="click")
    desk.fail(desk.one(), final=True)

    again_, new = again.ran(task_id, test_topic, request_id="click")

    assert (again_, new) == (task_id, False)
    task = bus.get_task(task_id)
    assert (task.state, task.epoch, task.replays) == ("dead", 0, ())
    bus.run_now(task_id, request_id="another click")
    assert bus.get_task(task_id).epoch == 1


def test_a_replay_that_is_delayed_again_is_not_started_by_the_same_request(
    test_topic: str,
) -> None:
    desk, task_id = Desk(test_topic), a_dead_one(test_topic)
    bus.run_now(task_id, request_id="click")
    desk.fail(desk.one())

    again_, new = again.ran(task_id, test_topic, request_id="click")

    assert (again_, new) == (task_id, False)
    assert bus.get_task(task_id).state == "delayed"


def test_a_second_run_of_what_came_back_is_the_same_one(test_topic: str) -> None:
    """The letter was discarded, sent again, and brought back by somebody."""
    task_id = a_dead_one(test_topic)
    bus.discard(task_id)
    new_id = bus.run_now(task_id, request_id="click")
    bus.undo(task_id)

    told = again.ran(task_id, test_topic, request_id="click")

    assert told == (new_id, False)
    assert bus.get_task(task_id).state == "dead"
    assert bus.stats(test_topic)["accepted"] == 2


def test_the_key_of_another_principal_is_another_request(test_topic: str) -> None:
    done, desk = a_done_one(test_topic), Desk(test_topic)
    delayed = bus.enqueue_task(test_topic, 1, delay_s=60)

    def run(task_id: str, principal: str) -> tuple[str, bool]:
        return again.ran(task_id, test_topic, None, principal, "k")

    one = run(delayed, "user:1")
    desk.fail(desk.one())
    two = run(delayed, "user:2")
    runs = {run(done, principal)[0] for principal in ("user:1", "user:2")}

    assert one == two == (delayed, True)
    assert len(runs) == 2


# --- over HTTP


@pytest.mark.django_db
def test_over_http_each_run_says_what_it_was(test_topic: str) -> None:
    client = api()
    delayed = bus.enqueue_task(test_topic, 1, delay_s=60)
    dead, done = a_dead_one(test_topic), a_done_one(test_topic)

    answers = [client.post(f"tasks/{each}/run") for each in (delayed, dead, done)]
    new = answers[2].json()["id"]

    assert [each.status_code for each in answers] == [200, 200, 201]
    row = {"topic": test_topic, "state": "waiting"}
    assert [each.json() for each in answers] == [
        {"id": delayed, **row, "again_of": None},
        {"id": dead, **row, "again_of": None},
        {"id": new, **row, "again_of": done},
    ]
    assert answers[2]["Location"].endswith(f"/tasks/{new}?topic={test_topic}")
    assert client.get(f"tasks/{new}").json()["again_of"] == done
    entries = models.AuditEntry.objects.filter(verb="run").order_by("id")
    assert [entry.target for entry in entries] == [delayed, dead, done]
    assert entries[2].detail["again"] == new
    desk = Desk(test_topic)
    desk.complete(*desk.claim(9))
    rows = client.get("results", topic=test_topic).json()["results"]
    told = {row["id"]: row["again_of"] for row in rows}
    assert told == {delayed: None, dead: None, done: None, new: done}


@pytest.mark.django_db
def test_over_http_a_key_makes_a_repeat_harmless(test_topic: str) -> None:
    client, done = api(), a_done_one(test_topic)
    url, key = f"tasks/{done}/run", {"Idempotency_Key": "click 1"}

    first, again_ = client.post(url, **key), client.post(url, **key)
    desk = Desk(test_topic)
    desk.complete(desk.one())
    late = client.post(url, **key)

    assert [each.status_code for each in (first, again_, late)] == [201, 200, 200]
    assert len({each.json()["id"] for each in (first, again_, late)}) == 1
    assert late.json()["state"] == "done"


@pytest.mark.django_db
def test_over_http_refusals_are_told_apart(test_topic: str) -> None:
    client, other = api(), api("operator", ("elsewhere",))
    waiting = bus.enqueue_task(test_topic, 1)
    unknown = keys.foreign_id(test_topic, "1-1")

    refused = problem(client.post(f"tasks/{waiting}/run"), 409, "not_runnable")
    assert refused["state"] == "waiting"
    problem(client.post(f"tasks/{unknown}/run"), 404, "task_not_found")
    problem(client.post("tasks/x/run"), 404, "task_not_found")
    problem(client.post(f"tasks/{waiting}/run", {"now": True}), 422, "invalid")
    problem(other.post(f"tasks/{waiting}/run"), 404, "task_not_found")
    problem(api("viewer").post(f"tasks/{waiting}/run"), 403, "permission_denied")
    done = a_done_one(f"{test_topic}-b")
    bus.set_limits(f"{test_topic}-b", backlog_max=1)
    bus.enqueue_task(f"{test_topic}-b", 2)
    problem(client.post(f"tasks/{done}/run"), 429, "topic_full")
