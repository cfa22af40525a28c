"""What pages read at once: rates per minute, failure groups, every topic's standing."""

from __future__ import annotations

import pytest
import redis

import bus
from bus import alike, errors, keys, rates, refusals, topics
from tests.support import agents, work


def bury(topic: str, payload: object, error: str = "no ink") -> str:
    bus.enqueue_task(topic, payload)
    [(entry_id, _)] = bus.read_group(topic, "hands", "me", block_ms=0)
    return bus.move_to_dead(topic, entry_id, {"error": error})


# --- rates


def test_minutes_count_what_their_scripts_wrote(test_topic: str) -> None:
    sent = bus.enqueue_many(test_topic, range(5))
    with agents.running(test_topic, work.echo):
        for task_id in sent:
            bus.wait_result(task_id, test_topic, 10)

    found = rates.of_topics([test_topic], 10)[test_topic]

    # The five may lie on both sides of a minute's end.
    assert sum(minute.accepted for minute in found.minutes) == 5
    assert sum(minute.done for minute in found.minutes) == 5
    assert len(found.minutes) == 10
    assert 0 < found.done_per_minute <= 5
    begins = [minute.at_ms for minute in found.minutes]
    assert begins == list(range(begins[0], begins[-1] + 1, 60_000))


def test_a_field_left_over_from_three_hours_ago_counts_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    now = int(redis_client.time()[0]) // 60
    key = keys.named("minutes", test_topic)
    redis_client.hset(key, str(now % 180), f"{now - 180} a=7 d=7")
    redis_client.hset(key, str((now - 1) % 180), f"{now - 1} d=4 x=2 w3=9 q=odd l=")

    found = rates.of_topics([test_topic], 3)[test_topic]

    before, running = found.minutes[-2:]
    assert running.done in (0, 4)  # the minute may have ended since
    assert 4 in (before.done, running.done, found.minutes[0].done)
    assert 0 <= found.done_per_minute <= 4
    assert sum(minute.dead for minute in found.minutes) == 2


def test_a_line_over_the_minutes_is_what_the_minutes_counted(
    test_topic: str, redis_client: redis.Redis
) -> None:
    now = int(redis_client.time()[0]) // 60
    key = keys.named("minutes", test_topic)
    for ago, row in enumerate(("d=5", "A=3 w2=9 d=7", "dd=1 d=x", "d=1 d2=8", "x=2")):
        redis_client.hset(key, str((now - ago) % 180), f"{now - ago} {row}")

    found = rates.of_topics([test_topic], 6)[test_topic]

    assert found.done == [minute.done for minute in found.minutes]
    assert sum(found.done) == 13


def test_unknown_topics_did_nothing_and_none_is_no_error(test_topic: str) -> None:
    assert rates.of_topics([]) == {}
    assert rates.of_topics([test_topic])[test_topic].done_per_minute == 0


@pytest.mark.parametrize("count", [0, 1, 180])
def test_a_count_outside_the_ring_is_refused(test_topic: str, count: int) -> None:
    with pytest.raises(errors.InvalidOption):
        rates.of_topics([test_topic], count)


# --- alike


def test_a_group_is_paged_without_its_neighbours(test_topic: str) -> None:
    mine = []
    for at in range(7):
        mine.append(bury(test_topic, at))
        bury(test_topic, at, "jam " + "x" * (at + 1))
    [fp] = [g["fingerprint"] for g in bus.dead_groups(test_topic) if g["count"] == 7]

    found = alike.list_alike(test_topic, fp, 3)
    pages = [found]
    while len(found) == 3:
        found = alike.list_alike(test_topic, fp, 3, found[-1].entry_id)
        pages.append(found)

    ids = [letter.entry_id for page in pages for letter in page]
    assert sorted(ids) == sorted(mine)
    assert [sid.partition("-")[0] for sid in ids] == sorted(
        (sid.partition("-")[0] for sid in mine), reverse=True
    )


def test_letters_of_one_millisecond_are_neither_skipped_nor_shown_twice(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = [f"1700000000000-{seq}" for seq in range(12)]
    for sid in ids:
        redis_client.xadd(bus.dead_stream(test_topic), {"id": sid, "json": "1"}, id=sid)
        redis_client.zadd(keys.group_key(test_topic, "fp"), {sid: 1700000000000})

    found, before = [], None
    while page := alike.list_alike(test_topic, "fp", 5, before):
        found += [letter.entry_id for letter in page]
        before = found[-1]

    assert sorted(found) == sorted(ids)


def test_an_unknown_group_is_empty(test_topic: str) -> None:
    assert alike.list_alike(test_topic, "0" * 16) == []
    with pytest.raises(errors.InvalidName):
        alike.list_alike(test_topic, "0" * 16, before="x")


# --- every topic


def test_every_topic_stands_as_it_stands_alone(test_topic: str) -> None:
    names = [f"{test_topic}-{at}" for at in range(3)]
    for at, name in enumerate(names):
        bus.enqueue_many(name, range(at + 1))
    bury(names[0], "x")

    found = topics.all_stats()

    assert [row["topic"] for row in found] == names
    for row in found:
        alone = bus.stats(row["topic"])
        assert alone.pop("oldest_s") >= row.pop("oldest_s")
        assert alone == row
    asked = topics.stats_of([names[2], names[0]])
    assert [row["topic"] for row in asked] == [names[2], names[0]]
    assert [row["waiting"] for row in asked] == [3, 1]


def test_a_server_that_forgot_the_script_is_told_it_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    names = [f"{test_topic}-{at}" for at in range(3)]
    for name in names:
        bus.enqueue_task(name, 1)
    redis_client.script_flush()

    assert [row["waiting"] for row in topics.stats_of(names)] == [1, 1, 1]


def test_a_connection_that_broke_meanwhile_is_made_anew(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    topics.all_stats()
    for each in redis_client.client_list():
        if int(each["id"]) != redis_client.client_id():
            redis_client.client_kill_filter(_id=each["id"])

    assert [row["waiting"] for row in topics.all_stats()] == [1]


def test_one_damaged_topic_among_many_is_told_by_its_key(
    test_topic: str, redis_client: redis.Redis
) -> None:
    names = [f"{test_topic}-{at}" for at in range(3)]
    for name in names:
        bus.enqueue_task(name, 1)
    damaged = keys.named("delayed", names[1])
    redis_client.set(damaged, "by hand")

    with pytest.raises(refusals.DamagedKey) as told:
        topics.stats_of(names)

    assert told.value.key == damaged


def test_rates_of_a_damaged_ring_are_refused(
    test_topic: str, redis_client: redis.Redis
) -> None:
    redis_client.set(keys.named("minutes", test_topic), "by hand")

    with pytest.raises(refusals.DamagedKey):
        rates.of_topics([test_topic])


def test_without_topics_there_is_nothing(redis_client: redis.Redis) -> None:
    assert topics.all_stats() == topics.stats_of([]) == []


def test_whoever_reads_counts_as_a_reader_for_a_while(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 1)
    before = bus.stats(test_topic)["readers"]
    bus.read_group(test_topic, "hands", "me", block_ms=0)

    reading = bus.stats(test_topic)["readers"]
    monkeypatch.setattr(topics, "READER_MS", 0)

    assert (before, reading) == (0, 1)
    assert bus.stats(test_topic)["readers"] == 0
