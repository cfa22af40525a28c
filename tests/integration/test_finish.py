"""`finish` does what `complete` does for one first attempt, or nothing at all."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import redis

import bus
from bus import deliveries, keys
from bus.deliveries import Completion, Delivery, Seat
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.verbatim import LAST_ID, ask, early_in_a_minute
from tests.support.waiting import wait_until

HASHES = ("tasks", "counters", "dead_index", "attempts", "minutes")


def end(item: Delivery, consumer: str = "desk#00000001", keep: int = 100) -> list[Any]:
    """Arguments for the end of this delivery."""
    row = f'{{"id":"{item.id}","state":"done","fence":"{item.fence}"}}'
    return [GROUP, consumer, keep, item.sid, item.record.n, item.id, 1, 2, row]


def kept(client: redis.Redis, topic: str) -> dict[str, Any]:
    """What stands in the topic, without what the clock says."""
    found: dict[str, Any] = {}
    for name in HASHES:
        key = keys.named(name, topic)
        if client.type(key) == "hash":
            found[name] = client.hgetall(key)
    for name in ("tasks_stream", "results", "dead"):
        key = keys.named(name, topic)
        if client.type(key) == "stream":
            found[name] = [fields for _, fields in client.xrange(key)]  # type: ignore[union-attr]
    found["held"] = client.xpending(keys.task_stream(topic), GROUP)["pending"]  # type: ignore[index]
    found["done"] = client.type(keys.named("done", topic))
    if found["done"] == "zset":
        found["done"] = sorted(client.zrange(keys.named("done", topic), 0, -1))  # type: ignore[type-var]
    return found


def plain(found: dict[str, Any], topic: str) -> str:
    """The same for a comparison of topics: no ids of entries, no times, no first id."""
    text = repr(found).replace(topic, "TOPIC")
    text = re.sub(r"\b\d{13}-\d+\b", "SID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"'(last|\d{1,3})': '\d{8}", r"'\1': 'MINUTE", text)
    return re.sub(r"\b(?!0198c0de)[\da-f]{8}-[\da-f]{4}-7[\da-f-]{21}", "FIRST", text)


def in_a_minute_with_a_row(client: redis.Redis, topic: str) -> Desk:
    """A desk whose topic has its books in this minute, with at least 5 s of it left."""
    early_in_a_minute(client)
    desk = Desk(topic)
    bus.enqueue_task(topic, "first")
    desk.complete(desk.one())
    return desk


@pytest.fixture
def args(redis_client: redis.Redis, test_topic: str) -> list[Any]:
    """For the end of a delivery that is in hand, in a minute with a row."""
    desk = in_a_minute_with_a_row(redis_client, test_topic)
    bus.enqueue_task(test_topic, 1)
    return end(desk.one())


@pytest.mark.parametrize("seed", range(4))
def test_it_writes_what_complete_writes_and_refuses_what_that_decides(
    redis_client: redis.Redis, test_topic: str, seed: int
) -> None:
    dice = random.Random(seed)
    one, two = f"{test_topic}-a", f"{test_topic}-b"
    desks = [in_a_minute_with_a_row(redis_client, topic) for topic in (one, two)]
    by_itself = 0
    for number in range(30):
        task_id = f"0198c0de-0000-7000-8000-{number:012d}"
        how, options = dice.random(), dice.choice([{}, {"max_attempts": 3}])
        before = []
        for topic, desk in zip((one, two), desks, strict=True):
            bus.enqueue_task(topic, number, task_id=task_id, **options)
            item = desk.one()
            if how < 0.3:  # by somebody else meanwhile, or once before
                desk.lose()
                item = desk.one() if how < 0.15 else item
            elif how < 0.4:
                desk.release(item)
            before.append(item)
        first, second = before
        answer = ask("finish", redis_client, one, end(first, keep=7))
        assert answer in (None, [1])
        by_itself += answer is not None
        if answer is None:
            answer = ask("complete", redis_client, one, end(first, keep=7))
        told = ask("complete", redis_client, two, end(second, keep=7))
        assert answer[:2] == told[:2]
        for desk in desks:
            for item in desk.recover():
                desk.complete(item)
            for item in desk.claim(5):
                desk.complete(item)

    assert by_itself > 10
    assert plain(kept(redis_client, one), one) == plain(kept(redis_client, two), two)
    assert [bus.stats(t)["ledger"]["drift"] for t in (one, two)] == [0, 0]


def refused(client: redis.Redis, topic: str, args: list[Any]) -> None:
    """Hold that it refuses, and leaves all as it was."""
    before = kept(client, topic)
    assert ask("finish", client, topic, args) is None
    assert kept(client, topic) == before


def refused_or_misfit(client: redis.Redis, topic: str, args: list[Any]) -> None:
    """The same, also where it says so with an error of the server's."""
    before = kept(client, topic)
    try:
        assert ask("finish", client, topic, args) is None
    except redis.ResponseError as exc:
        assert re.search("WRONGTYPE|EXHAUSTED", str(exc))
    assert kept(client, topic) == before


def test_a_delivery_of_somebody_else_is_left_to_complete(
    redis_client: redis.Redis, test_topic: str
) -> None:
    desk = in_a_minute_with_a_row(redis_client, test_topic)
    bus.enqueue_task(test_topic, 1)
    item = desk.one()

    refused(redis_client, test_topic, end(item, "other#00000001"))
    desk.lose()
    refused(redis_client, test_topic, end(item))
    Desk(test_topic, "other#00000001").one()
    refused(redis_client, test_topic, end(item))


def test_what_has_ended_is_left_to_complete(
    redis_client: redis.Redis, test_topic: str, args: list[Any]
) -> None:

    assert ask("finish", redis_client, test_topic, args) == [1]
    refused(redis_client, test_topic, args)


def test_a_minute_without_a_row_is_left_to_complete(
    redis_client: redis.Redis, test_topic: str, args: list[Any]
) -> None:
    minutes = keys.named("minutes", test_topic)
    [field] = [name for name in redis_client.hkeys(minutes) if name != "last"]  # type: ignore[union-attr]
    row: Any = redis_client.hget(minutes, field)
    redis_client.hset(minutes, field, "7" + row[8:])  # of a minute long ago
    refused(redis_client, test_topic, args)
    last: Any = redis_client.hget(minutes, "last")
    redis_client.hset(minutes, mapping={field: row, "last": int(last) + 1})
    refused(redis_client, test_topic, args)  # the clock was put back since
    redis_client.delete(minutes)
    refused(redis_client, test_topic, args)

    assert ask("complete", redis_client, test_topic, args) == [1]
    assert ask("complete", redis_client, test_topic, args)[1:3] == [0, "done"]


def test_a_count_by_hand_that_is_none_is_begun_anew(
    redis_client: redis.Redis, test_topic: str
) -> None:
    desk = in_a_minute_with_a_row(redis_client, test_topic)
    minutes = keys.named("minutes", test_topic)
    [field] = [name for name in redis_client.hkeys(minutes) if name != "last"]  # type: ignore[union-attr]
    row: Any = redis_client.hget(minutes, field)
    redis_client.hset(minutes, field, row.replace(" d=1", " d=many x=2"))
    for number in range(3):
        bus.enqueue_task(test_topic, number)
        desk.complete(desk.one())

    row = redis_client.hget(minutes, field)
    assert sorted(row.split()[2:]) == ["d=3", "r2=4", "w1=4", "x=2"]


@pytest.mark.parametrize("value", ["abc", "1.5", "9" * 18])
def test_a_counter_that_is_none_is_left_to_complete(
    redis_client: redis.Redis, test_topic: str, args: list[Any], value: str
) -> None:
    redis_client.hset(keys.named("counters", test_topic), "done", value)
    if value.isdigit():
        assert ask("finish", redis_client, test_topic, args) == [1]
    else:
        refused(redis_client, test_topic, args)


@pytest.mark.parametrize("last", [LAST_ID, LAST_ID.partition("-")[0] + "-0"])
def test_results_that_take_no_entry_are_left_to_complete(
    redis_client: redis.Redis, test_topic: str, args: list[Any], last: str
) -> None:
    redis_client.xadd(bus.result_stream(test_topic), {"id": "x"}, last)

    refused_or_misfit(redis_client, test_topic, args)


@pytest.mark.parametrize("name", ["tasks", "results", "done", "counters", "minutes"])
def test_a_key_of_another_type_leaves_all_as_it_was(
    redis_client: redis.Redis, test_topic: str, args: list[Any], name: str
) -> None:
    redis_client.set(keys.named(name, test_topic), "by hand", px=60_000)

    refused_or_misfit(redis_client, test_topic, args)


def test_a_server_without_memory_leaves_it_to_complete(
    redis_client: redis.Redis, test_topic: str, args: list[Any]
) -> None:
    redis_client.config_set("maxmemory", 1)
    try:
        refused(redis_client, test_topic, args)
        assert ask("complete", redis_client, test_topic, args) == [1]
    finally:
        redis_client.config_set("maxmemory", 0)


def test_what_is_in_hand_with_others_ends_with_them(
    redis_client: redis.Redis, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = deliveries.finish

    def finish(seat: Seat, item: Completion) -> Any:
        asked.append(item.delivery.id)
        return real(seat, item)

    monkeypatch.setattr(deliveries, "finish", finish)
    bus.enqueue_many(test_topic, range(50))

    with agents.running(test_topic, work.echo, concurrency=50):
        wait_until(lambda: bus.stats(test_topic)["done"] == 50, 10, "the end of all")

    assert len(asked) <= 1, "the last may have been alone"


def test_an_agent_ends_a_task_that_comes_alone_with_one_script(
    redis_client: redis.Redis, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But perhaps for one, after the server has forgotten it on an open connection."""
    in_a_minute_with_a_row(redis_client, test_topic)
    completed: list[str] = []
    real = deliveries.complete

    async def complete(seat: Seat, items: Sequence[Completion]) -> list[str]:
        completed.extend(item.delivery.json for item in items)
        return await real(seat, items)

    monkeypatch.setattr(deliveries, "complete", complete)

    def end(*numbers: int) -> None:
        for number in numbers:
            sent = bus.enqueue_task(test_topic, number)
            assert bus.wait_result(sent, test_topic).result == number

    with agents.running(test_topic, work.echo):
        end(1, 2, 3)
        redis_client.script_flush()
        end(4, 5, 6)

    assert len(completed) <= 2, "one of them, and one where a minute began"
