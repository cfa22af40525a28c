"""Entries that somebody else wrote: adopted where readable, never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import bus
from bus import deliveries, judge, keys, looks, scripts
from tests.support import agents, work
from tests.support.waiting import wait_until

GROUP = "workers"


@pytest.fixture
def raw(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A client of bytes, as another language would use the server."""
    with redis.Redis.from_url(bus._redis_url()) as client:
        yield client


def read(topic: str, count: int = 1) -> list[tuple[str, dict[str, Any]]]:
    return bus.read_group(topic, GROUP, "me", count, block_ms=0)


def add(raw: redis.Redis, topic: str, fields: dict[Any, Any]) -> str:
    entry_id: bytes = raw.xadd(bus.task_stream(topic), fields)
    return entry_id.decode()


def drift(topic: str) -> int:
    return int(bus.stats(topic)["ledger"]["drift"])


def is_drained(topic: str) -> bool:
    stats = bus.stats(topic)
    return stats["backlog"] == 0 == bus.get_redis().xlen(bus.task_stream(topic))


# --- readable: adopted


@pytest.mark.parametrize(
    "fields",
    [
        {"json": '{"a":1}'},
        {"id": "mine", "json": '{"a":1}'},
        {"json": '{"a":1}', "id": "mine"},
        {"task": "x", "json": '{"a":1}', "more": "y"},
        {"json": '{"a":1}', "\\": "|", "|": "\n"},
        {"json": '{"a": 1}', "meta": "m"},
        {"json": ' {"a":\n1}\n'},
    ],
    ids=ascii,
)
def test_a_readable_entry_is_a_task_like_any_other(
    test_topic: str, raw: redis.Redis, fields: dict[str, str]
) -> None:
    sid = add(raw, test_topic, fields)

    [(entry_id, found)] = read(test_topic)

    assert entry_id == sid
    assert (found["payload"], found["attempt"]) == ({"a": 1}, 1)
    assert found["id"] == keys.foreign_id(test_topic, sid)
    assert bus.get_task(found["id"], test_topic).state == "running"
    assert bus.ack(test_topic, GROUP, entry_id) == 1
    assert bus.get_task(found["id"], test_topic).state == "done"
    assert (bus.stats(test_topic)["adopted"], drift(test_topic)) == (1, 0)


def test_an_adopted_entry_is_adopted_once(test_topic: str, raw: redis.Redis) -> None:
    add(raw, test_topic, {"json": "1"})

    for _ in range(3):
        read(test_topic)
        judge.take(test_topic, GROUP, "me", idle_ms=0)

    assert bus.stats(test_topic)["adopted"] == 1
    assert bus.stats(test_topic)["backlog"] == 1


def test_an_agent_runs_adopted_entries_among_its_own(
    test_topic: str, raw: redis.Redis
) -> None:
    for n in range(20):
        bus.enqueue_task(test_topic, f"own {n}")
        add(raw, test_topic, {"json": f'"foreign {n}"'})

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 40, 20)

    results = {row["result"] for _, row in bus.tail_results(test_topic, 100)}
    assert results == {f"{who} {n}" for who in ("own", "foreign") for n in range(20)}
    assert is_drained(test_topic)
    assert drift(test_topic) == 0


def test_an_adopted_entry_that_fails_comes_back_as_it_was(
    test_topic: str, raw: redis.Redis, redis_client: redis.Redis
) -> None:
    text = '{"a":\n [1.50, "\u00e4|\\n"]}'
    sid = add(raw, test_topic, {"json": text})
    task_id = keys.foreign_id(test_topic, sid)
    with agents.running(test_topic, work.failing, group=GROUP, backoff_s=3_600):
        wait_until(lambda: bus.stats(test_topic)["delayed"] == 1, 20)
    redis_client.zadd(keys.named("delayed", test_topic), {task_id: 1})

    looks.promote(test_topic)

    [(_, fields)] = read(test_topic)
    assert (fields["id"], fields["json"], fields["attempt"]) == (task_id, text, 2)


def test_an_entry_that_claims_the_id_of_a_live_task_does_not_touch_it(
    test_topic: str, raw: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, "honest")
    add(raw, test_topic, {"id": task_id, "json": '"forged"'})

    entries = read(test_topic, 5)

    assert [fields["payload"] for _, fields in entries] == ["honest", "forged"]
    assert [fields["id"] == task_id for _, fields in entries] == [True, False]


@pytest.mark.parametrize(
    "text",
    ['{"n":1234567890123456789}', "[" * 40 + "1" + "]" * 40, '"' + "x" * 300_000 + '"'],
    ids=["big number", "deep", "large"],
)
def test_an_adopted_entry_beyond_our_limits_can_still_be_moved_to_dead(
    test_topic: str, raw: redis.Redis, text: str
) -> None:
    """It is in already: refusing it now would only keep it for ever."""
    add(raw, test_topic, {"json": text})
    [(entry_id, fields)] = read(test_topic)

    bus.move_to_dead(test_topic, entry_id, fields["payload"])

    assert is_drained(test_topic)
    assert bus.list_dead(test_topic)[0].payload == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ['{"n":1234567890123456789}', "[" * 40 + "1" + "]" * 40, '{"a":1.50}'],
    ids=["big number", "deep", "spelling"],
)
def test_an_adopted_entry_that_died_can_be_replayed_as_it_was(
    test_topic: str, raw: redis.Redis, text: str
) -> None:
    sid = add(raw, test_topic, {"json": text})
    task_id = keys.foreign_id(test_topic, sid)
    with agents.running(test_topic, work.failing, group=GROUP, max_attempts=1):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)

    bus.replay(task_id, test_topic)

    [(_, fields)] = read(test_topic)
    assert json.loads(fields["json"]) == json.loads(text)


READABLE = ['{"a":"banana"}', '["info","0x1F"]', '{"nan":null}', '{"a":1e308}', "0.5"]


@pytest.mark.parametrize("text", READABLE)
def test_an_adopted_entry_that_loses_its_agents_keeps_its_payload(
    test_topic: str, raw: redis.Redis, settings: Any, text: str
) -> None:
    settings.MESH_MAX_DELIVERIES = 1
    add(raw, test_topic, {"json": text})
    read(test_topic)

    judge.take(test_topic, GROUP, "me", idle_ms=0)

    [letter] = bus.list_dead(test_topic)
    assert letter.payload == json.loads(text)
    bus.replay(letter.id, test_topic)
    [(_, fields)] = read(test_topic)
    assert fields["payload"] == json.loads(text)


@pytest.mark.parametrize("text", READABLE)
def test_an_adopted_entry_that_is_cancelled_keeps_its_payload(
    test_topic: str, raw: redis.Redis, text: str
) -> None:
    add(raw, test_topic, {"json": text})
    [(_, fields)] = read(test_topic)
    bus.cancel(fields["id"], test_topic)

    judge.take(test_topic, GROUP, "me", idle_ms=0)

    task = bus.get_task(fields["id"], test_topic)
    assert (task.state, task.payload) == ("cancelled", json.loads(text))


# --- unreadable: a dead letter

BROKEN: list[dict[Any, Any]] = [
    {"json": "not json"},
    {"json": ""},
    {"json": "{"},
    {"json": "NaN"},
    {"json": '"\\ud800"'},
    {"json": "1 2"},
    {"json": b"\xff\xfe\x00"},
    {"json": b'{"a":"\xff"}'},
    {"json": "[" * 5_000},
    {"nothing": "like a task"},
    {b"\xff": b"\xff"},
    {"json": "x" * 300_000},
]


def short(fields: object) -> str:
    return ascii(fields)[:24]


@pytest.mark.parametrize("fields", BROKEN, ids=short)
def test_an_agent_by_hand_can_get_rid_of_a_broken_entry(
    test_topic: str, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    add(raw, test_topic, fields)
    task_id = bus.enqueue_task(test_topic, "behind it")

    for entry_id, found in read(test_topic, 5):
        if found["id"] == task_id:
            bus.ack(test_topic, GROUP, entry_id)
        else:
            bus.move_to_dead(test_topic, entry_id, {"error": "what is this?"})

    assert bus.get_task(task_id, test_topic).state == "done"
    assert is_drained(test_topic)
    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


@pytest.mark.parametrize("fields", BROKEN, ids=short)
def test_an_agent_makes_a_broken_entry_a_dead_letter(
    test_topic: str, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    add(raw, test_topic, fields)
    task_id = bus.enqueue_task(test_topic, "behind it")

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "done", 20)

    [letter] = bus.list_dead(test_topic)
    assert letter.error["reason"] == "malformed"
    assert is_drained(test_topic)
    assert drift(test_topic) == 0


@pytest.mark.parametrize("text", ["not json", "{", "1 2"])
def test_the_letter_of_a_broken_entry_shows_what_it_held(
    test_topic: str, raw: redis.Redis, text: str
) -> None:
    add(raw, test_topic, {"json": text})

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)

    assert bus.list_dead(test_topic)[0].payload == text


LONG = ['{"n":18446744073709551617}', "[1.5,-9223372036854775809]", "1" * 50]


@pytest.mark.parametrize("more", [{}, {"id": "mine"}, {"meta": "m"}])
@pytest.mark.parametrize("text", LONG, ids=short)
def test_no_handler_runs_with_another_number_than_was_written(
    test_topic: str, raw: redis.Redis, text: str, more: dict[str, str]
) -> None:
    add(raw, test_topic, {"json": text, **more})
    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)

    [letter] = bus.list_dead(test_topic)
    assert letter.error["reason"] == "malformed"
    assert "an integer beyond 64 bits" in letter.error["message"]
    held = letter.payload
    assert (held["json"] if isinstance(held, dict) else held) == text
    assert (is_drained(test_topic), drift(test_topic)) == (True, 0)


def test_a_letter_by_hand_is_not_replayed_with_another_number(
    test_topic: str, raw: redis.Redis
) -> None:
    sid = add(raw, test_topic, {"json": "1"})
    [(entry_id, found)] = read(test_topic)
    bus.move_to_dead(test_topic, entry_id, {"n": 2**70})

    bus.replay(found["id"], test_topic)

    assert read(test_topic) == []
    [letter] = bus.list_dead(test_topic)
    assert (letter.id, letter.error["reason"]) == (found["id"], "malformed")
    assert str(2**70) in letter.payload["json"]
    assert found["id"] == keys.foreign_id(test_topic, sid)


def test_a_broken_entry_that_loses_its_agents_keeps_what_it_held(
    test_topic: str, raw: redis.Redis, settings: Any
) -> None:
    settings.MESH_MAX_DELIVERIES = 1
    add(raw, test_topic, {"json": "not json"})
    read(test_topic)

    judge.take(test_topic, GROUP, "me", idle_ms=0)

    [letter] = bus.list_dead(test_topic)
    assert letter.payload == "not json"
    assert letter.id


@pytest.mark.parametrize(
    "fields",
    [*BROKEN, *({"json": text} for text in ("01", "1.", ".5", "+1", "0x1", "-inf"))],
    ids=short,
)
def test_a_cancelled_broken_entry_is_cancelled(
    test_topic: str, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    add(raw, test_topic, fields)
    bus.create_consumer_group(test_topic, GROUP)
    # As the runtime takes it, before it looks inside.
    args = deliveries.claim_args(GROUP, "me", 1, False)
    _, task_id, *_ = scripts.run("claim", test_topic, args)[4]
    bus.cancel(task_id, test_topic)

    judge.take(test_topic, GROUP, "me", idle_ms=0)

    assert bus.get_task(task_id, test_topic).state == "cancelled"
    assert bus.tail_results(test_topic) == []
    assert drift(test_topic) == 0


@pytest.mark.parametrize("fields", BROKEN, ids=short)
def test_a_reader_by_hand_never_sees_what_nobody_can_read(
    test_topic: str, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    add(raw, test_topic, fields)
    add(raw, test_topic, {"json": '"good"'})

    seen = [found["payload"] for _, found in read(test_topic) + read(test_topic)]

    [letter] = bus.list_dead(test_topic)
    assert seen == ["good"]
    assert letter.error["reason"] == "malformed"
    assert drift(test_topic) == 0


ODD_METAS = ["junk", '{"a":1}', "type=7", "e=", "e=5x", " ", "e=1\n", "\\", "x" * 900]


@pytest.mark.parametrize("meta", ODD_METAS, ids=short)
def test_an_entry_with_a_meta_of_its_own_is_a_letter_that_says_so(
    test_topic: str, raw: redis.Redis, meta: str
) -> None:
    """In our shape, yet not ours: it must neither run nor vanish."""
    sid = add(raw, test_topic, {"id": "mine", "json": '{"a":1}', "meta": meta})

    assert read(test_topic) == []

    [letter] = bus.list_dead(test_topic)
    kept = letter.payload if letter.payload == {"a": 1} else letter.payload["meta"]
    assert kept in ({"a": 1}, meta)
    assert (letter.id, letter.error["reason"]) == (
        keys.foreign_id(test_topic, sid),
        "malformed",
    )
    assert letter.error["message"].startswith("the entry's field `meta` holds ")
    stats = bus.stats(test_topic)
    assert (stats["adopted"], stats["dead"], stats["orphans"]) == (1, 1, 0)
    assert is_drained(test_topic)
    assert drift(test_topic) == 0


def test_an_agent_buries_an_entry_with_a_meta_of_its_own(
    test_topic: str, raw: redis.Redis
) -> None:
    add(raw, test_topic, {"id": "mine", "json": '{"a":1}', "meta": "junk"})

    with agents.running(test_topic, work.echo, agent_id="finder"):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)

    [letter] = bus.list_dead(test_topic)
    [attempt] = letter.attempts
    assert "`meta` holds 'junk'" in letter.error["message"]
    assert (attempt["agent"], attempt["error"]) == ("finder", letter.error)
    bus.replay(letter.id, test_topic)
    [(_, fields)] = read(test_topic)
    assert fields["payload"] == {"a": 1}


@pytest.mark.parametrize("fields", [{"task": "x"}, {"json": "", "more": "y"}], ids=str)
def test_the_letter_of_an_entry_without_json_says_what_is_missing(
    test_topic: str, raw: redis.Redis, fields: dict[Any, Any]
) -> None:
    add(raw, test_topic, fields)

    assert read(test_topic) == []

    [letter] = bus.list_dead(test_topic)
    assert "no field `json`" in letter.error["message"]
    assert letter.payload == fields


def test_an_entry_of_many_fields_is_read_like_one_of_few(
    test_topic: str, raw: redis.Redis
) -> None:
    fields = {f"f{n}": "x" * 100 for n in range(2_000)}
    add(raw, test_topic, {**fields, "json": '"found"'})

    [(_, found)] = read(test_topic)

    assert found["payload"] == "found"


# --- ours by shape, but of no task


@pytest.mark.parametrize("meta", ["", "e=1732287600000", "e=1732287600000,epoch=1"])
def test_an_entry_in_our_shape_without_a_task_is_never_delivered(
    test_topic: str, raw: redis.Redis, meta: str
) -> None:
    """What is left of a task that ended, or a copy by hand; the books tell."""
    bus.cancel(bus.enqueue_task(test_topic, 1), test_topic)
    fields = {"id": "0198c0de-0000-7000-8000-00000000abcd", "json": "1", "meta": meta}
    add(raw, test_topic, fields)

    assert read(test_topic) == []

    key = bus.task_stream(test_topic)
    assert is_drained(test_topic)
    assert raw.xpending(key, GROUP)["pending"] == 0
    assert (bus.stats(test_topic)["orphans"], drift(test_topic)) == (1, 0)


def test_an_entry_without_a_task_does_not_hold_up_those_behind_it(
    test_topic: str, raw: redis.Redis
) -> None:
    for n in range(5):
        add(raw, test_topic, {"id": str(n), "json": "1", "meta": ""})
    task_id = bus.enqueue_task(test_topic, 1)

    seen = [fields["id"] for _ in range(3) for _, fields in read(test_topic, 2)]

    assert seen == [task_id]


def test_a_waiting_reader_is_not_given_an_entry_without_a_task(
    test_topic: str, raw: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    add(raw, test_topic, {"id": "x", "json": "1", "meta": ""})

    assert bus.read_group(test_topic, GROUP, "me", block_ms=50) == []
    assert is_drained(test_topic)


def test_a_copy_of_a_live_tasks_entry_runs_nothing_twice(
    test_topic: str, raw: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    [(_, fields)] = raw.xrange(bus.task_stream(test_topic))
    raw.xadd(bus.task_stream(test_topic), fields)

    entries = read(test_topic, 5)

    assert len(entries) == 1
    assert bus.ack(test_topic, GROUP, entries[0][0]) == 1
    assert is_drained(test_topic)
    assert drift(test_topic) == 0


def test_an_agent_by_hand_cannot_end_a_task_with_the_copy_of_its_entry(
    test_topic: str, raw: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(_, fields)] = raw.xrange(bus.task_stream(test_topic))
    copy = raw.xadd(bus.task_stream(test_topic), fields).decode()

    bus.move_to_dead(test_topic, copy, {"error": "a copy"})

    assert bus.get_task(task_id, test_topic).state == "waiting"
    assert [letter.id != task_id for letter in bus.list_dead(test_topic)] == [True]
    assert drift(test_topic) == 0


# --- readers that know only Redis


def test_nothing_is_counted_below_zero_while_a_foreign_entry_is_read_raw(
    test_topic: str, raw: redis.Redis
) -> None:
    """XREADGROUP, as any language has it: nobody has adopted the entry yet."""
    bus.create_consumer_group(test_topic, GROUP)
    add(raw, test_topic, {"json": "1"})
    raw.xreadgroup(GROUP, "raw", {bus.task_stream(test_topic): ">"})

    stats = bus.stats(test_topic)

    assert stats["waiting"] >= 0
    assert stats["running"] <= stats["backlog"]


def test_an_entry_read_raw_is_adopted_by_its_ack(
    test_topic: str, raw: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    sid = add(raw, test_topic, {"json": "1"})
    raw.xreadgroup(GROUP, "raw", {bus.task_stream(test_topic): ">"})

    assert bus.ack(test_topic, GROUP, sid) == 1

    stats = bus.stats(test_topic)
    assert (stats["adopted"], stats["done"], drift(test_topic)) == (1, 1, 0)
    assert is_drained(test_topic)


def test_an_entry_read_raw_and_lost_is_handed_over(
    test_topic: str, raw: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    add(raw, test_topic, {"json": '"lost"'})
    raw.xreadgroup(GROUP, "raw", {bus.task_stream(test_topic): ">"})

    judge.take(test_topic, GROUP, "raw", idle_ms=0)

    [(_, fields)] = read(test_topic)
    assert fields["payload"] == "lost"


def test_an_entry_acknowledged_and_left_behind_is_no_task_any_more(
    test_topic: str, raw: redis.Redis
) -> None:
    """XACK without XDEL, by somebody who never heard of us."""
    bus.create_consumer_group(test_topic, GROUP)
    sid = add(raw, test_topic, {"json": "1"})
    key = bus.task_stream(test_topic)
    raw.xreadgroup(GROUP, "raw", {key: ">"})
    raw.xack(key, GROUP, sid)

    assert read(test_topic) == []
    assert drift(test_topic) == 0


def test_a_task_whose_entry_somebody_deleted_does_not_stop_the_others(
    test_topic: str, raw: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(3))
    key = bus.task_stream(test_topic)
    [(sid, _), *_] = raw.xrange(key)
    raw.xdel(key, sid)

    assert [fields["id"] for _, fields in read(test_topic, 5)] == ids[1:]


def test_a_letter_that_somebody_else_wrote_is_listed(
    test_topic: str, raw: redis.Redis
) -> None:
    raw.xadd(bus.dead_stream(test_topic), {"id": "x", "json": '{"id":"x","payload":5}'})
    raw.xadd(bus.dead_stream(test_topic), {b"\xff": b"\xff"})

    broken, readable = bus.list_dead(test_topic)

    assert (readable.id, readable.payload) == ("x", 5)
    assert broken.id == ""
