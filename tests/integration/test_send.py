"""`send` does what `enqueue` does for new tasks that are due, or nothing at all."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

import bus
from bus import keys, lines, verbs
from bus.batches import Batch
from bus.wanted import Wanted, item_of
from tests.support import packed
from tests.support.desk import Desk
from tests.support.verbatim import LAST_ID, ask, early_in_a_minute

SEEN = ("tasks_stream", "tasks", "counters", "dead_index", "done")


def fresh(*numbers: int, most: int | str = "", backlog: int = 1_000) -> list[Any]:
    """Arguments for new tasks under these numbers."""
    args: list[Any] = [backlog, 1_000, most, ""]
    for number in numbers:
        options = "m=3" if number % 3 == 0 else ""
        args += [f"0198c0de-0000-7000-8000-{number:012d}", "", options, str(number)]
    return args


def kept(client: redis.Redis, topic: str) -> dict[str, Any]:
    """What stands in the topic, without the clock in entry ids."""
    found: dict[str, Any] = {}
    for name in SEEN:
        key = keys.named(name, topic)
        kind: Any = client.type(key)
        if kind == "hash":
            found[name] = client.hgetall(key)
        elif kind == "stream":
            found[name] = [fields for _, fields in client.xrange(key)]  # type: ignore[union-attr]
        elif kind == "zset":
            found[name] = client.zcard(key)
    records = found.get("tasks", {})
    found["tasks"] = {i: text[text.index("|") :] for i, text in records.items()}
    found["dead_index"] = sorted(found.get("dead_index", {}))
    return found


def in_a_minute_with_a_row(client: redis.Redis, topic: str, number: int) -> None:
    """Let the topic's books have begun in this minute, with at least 5 s of it left."""
    early_in_a_minute(client)
    ask("enqueue", client, topic, fresh(number))


@pytest.mark.parametrize("seed", range(6))
def test_it_writes_what_enqueue_writes_and_refuses_what_that_decides(
    redis_client: redis.Redis, test_topic: str, seed: int
) -> None:
    dice = random.Random(seed)
    one, two = test_topic, f"{test_topic}-long"
    desks = [Desk(one), Desk(two)]
    number, by_itself = 0, 0
    for _ in range(40):
        count = dice.randint(1, 4)
        args = fresh(
            *range(number, number + count),
            most=dice.choice(["", "", 5]),
            backlog=dice.choice([1_000, 12]),
        )
        number += count
        answer = ask("send", redis_client, one, args)
        by_itself += answer is not None
        if answer is None:
            answer = ask("enqueue", redis_client, one, args)
        told = ask("enqueue", redis_client, two, args)
        assert [isinstance(x, str) for x in answer] == [
            isinstance(x, str) for x in told
        ]
        ends = dice.random()
        for desk in desks if ends < 0.5 else []:
            for item in desk.claim(3):
                if ends < 0.4:
                    desk.complete(item)
                else:
                    desk.fail(item, final=True)

    assert by_itself > 10
    assert kept(redis_client, one) == kept(redis_client, two)
    assert [bus.stats(t)["ledger"]["drift"] for t in (one, two)] == [0, 0]
    assert bus.stats(one)["accepted"] == bus.stats(two)["accepted"] > 0


def test_a_topic_without_books_is_left_to_enqueue(
    redis_client: redis.Redis, test_topic: str
) -> None:
    before = kept(redis_client, test_topic)

    assert ask("send", redis_client, test_topic, fresh(1, 2)) is None
    assert kept(redis_client, test_topic) == before


def test_a_minute_without_a_row_is_left_to_enqueue(
    redis_client: redis.Redis, test_topic: str
) -> None:
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    redis_client.hset(keys.named("minutes", test_topic), "last", "7")
    before = kept(redis_client, test_topic)

    assert ask("send", redis_client, test_topic, fresh(2, 3)) is None
    assert kept(redis_client, test_topic) == before


@pytest.mark.parametrize("nonsense", ["nan", "-1", "x"])
def test_a_bound_that_is_none_is_left_to_enqueue(
    redis_client: redis.Redis, test_topic: str, nonsense: str
) -> None:
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    redis_client.hset(keys.named("settings", test_topic), "backlog_max", nonsense)

    answer = ask("send", redis_client, test_topic, fresh(2, backlog=0))

    assert answer is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_stream_that_takes_no_entry_is_left_to_enqueue(
    redis_client: redis.Redis, test_topic: str, count: int
) -> None:
    """The first of several may still find a place."""
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    stream = keys.named("tasks_stream", test_topic)
    place = LAST_ID if count == 1 else f"{LAST_ID[:-1]}4"
    redis_client.xadd(stream, {"id": "x"}, place)
    redis_client.xdel(stream, place)
    before = kept(redis_client, test_topic)

    assert ask("send", redis_client, test_topic, fresh(*range(2, 2 + count))) is None
    assert kept(redis_client, test_topic) == before


@pytest.mark.parametrize("beside", [(), (7,)])
@pytest.mark.parametrize("state", ["waiting", "running", "done", "dead", "discarded"])
def test_what_a_broken_connection_delivers_after_its_repeat_is_known(
    redis_client: redis.Redis, test_topic: str, state: str, beside: tuple[int, ...]
) -> None:
    """Whatever became of the task meanwhile."""
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    desk = Desk(test_topic)
    desk.complete(desk.one())
    args = fresh(2)
    ask("enqueue", redis_client, test_topic, args)
    item = desk.one() if state != "waiting" else None
    if item and state == "done":
        desk.complete(item)
    elif item and state != "running":
        desk.fail(item, final=True)
    if state == "discarded":
        bus.discard(args[4], test_topic)
    before = kept(redis_client, test_topic)

    assert ask("send", redis_client, test_topic, fresh(2, *beside)) is None
    assert kept(redis_client, test_topic) == before


def test_the_same_id_twice_in_one_call_is_left_to_enqueue(
    redis_client: redis.Redis, test_topic: str
) -> None:
    in_a_minute_with_a_row(redis_client, test_topic, 1)

    assert ask("send", redis_client, test_topic, fresh(2, 2)) is None


@pytest.mark.parametrize("value", ["abc", "1.5", "9" * 18])
def test_a_counter_that_is_none_keeps_no_task_out(
    redis_client: redis.Redis, test_topic: str, value: str
) -> None:
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    counters = keys.named("counters", test_topic)
    redis_client.hset(counters, "accepted", value)

    bus.enqueue_task(test_topic, 2)
    redis_client.hset(counters, "accepted", value)
    bus.enqueue_task(test_topic, 3, delay_s=60)
    redis_client.hset(counters, "accepted", value)
    bus.enqueue_task(test_topic, 4, idempotency_key="k")
    bus.enqueue_task(test_topic, 4, idempotency_key="k")

    assert bus.stats(test_topic)["backlog"] == 4


@pytest.mark.parametrize(
    ("wanted", "verb"),
    [
        (Wanted(1), "send"),
        (Wanted(1, max_attempts=3), "send"),
        (Wanted(1, task_id="0198c0de-0000-7000-8000-000000000001"), "send"),
        (Wanted(1, idempotency_key="k"), ""),
        (Wanted(1, delay_s=5), ""),
        (Wanted(1, maxlen=5), ""),
    ],
)
def test_what_has_a_key_a_bound_or_a_delay_goes_to_enqueue(
    wanted: Wanted, verb: str
) -> None:
    assert Batch("demo", [item_of("demo", wanted)]).first == verb


def test_the_common_call_is_one_script(
    redis_client: redis.Redis, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 0)
    in_a_minute_with_a_row(redis_client, test_topic, 1)
    asked: list[str] = []
    names = {script.sha: name for name, script in verbs.SCRIPTS.items()}
    ask_server = lines.Lines.execute_packed

    def asking(pool: lines.Lines, data: bytes, *meanwhile: Any) -> Any:
        asked.append(names[packed.sha_of(data)])
        return ask_server(pool, data, *meanwhile)

    monkeypatch.setattr(lines.Lines, "execute_packed", asking)

    bus.enqueue_task(test_topic, 2)
    bus.enqueue_many(test_topic, range(100))

    assert asked == ["send", "send"]
