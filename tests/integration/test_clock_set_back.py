"""Ids ahead of the clock, which was set back, or behind one that somebody wrote: topics
are emptied, rates told and letters listed all the same."""

from __future__ import annotations

import time

import pytest
import redis

import bus
from bus import alike, auditor, keys, messages, metrics, purges, rates
from tests.integration.test_purges import sent_meanwhile
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.town import build_town

AHEAD_MS = 9_999_999_999_999  # of the year 2286
FAR_MINUTE = AHEAD_MS // 60_000
STREAMS = ("tasks_stream", "results", "dead")


def set_back(client: redis.Redis, topic: str, *names: str) -> None:
    """All ids of these streams are ahead of the clock from now on."""
    for name in names or STREAMS:
        stream = keys.named(name, topic)
        client.xdel(stream, client.xadd(stream, {"by": "hand"}, id=f"{AHEAD_MS}-0"))


def accepted(topic: str) -> int:
    return sum(each.accepted for each in rates.of_topics([topic])[topic].minutes)


def keys_of(client: redis.Redis, topic: str) -> list[str]:
    return sorted(client.scan_iter(f"*{{{topic}}}*", count=1_000))


# --- emptied and deleted


def test_a_purge_cancels_what_came_before_it(
    test_topic: str, redis_client: redis.Redis
) -> None:
    set_back(redis_client, test_topic)
    bus.enqueue_many(test_topic, range(500))

    counts = bus.purge_topic(test_topic)

    assert counts == {"cancelled": 500, "asked": 0, "discarded": 0}
    assert wounds(redis_client, test_topic) == []


def test_what_comes_while_it_runs_stays(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id has the same ms as those that came before."""
    set_back(redis_client, test_topic)
    bus.enqueue_many(test_topic, range(1_000))
    late = sent_meanwhile(test_topic, monkeypatch)

    assert bus.purge_topic(test_topic)["cancelled"] == 1_000
    assert [bus.get_task(i, test_topic).state for i in late] == ["waiting", "delayed"]


@pytest.mark.parametrize("delay_s", [None, 60.0], ids=["waiting", "delayed"])
def test_no_task_outlives_its_topic(
    test_topic: str, redis_client: redis.Redis, delay_s: float | None
) -> None:
    set_back(redis_client, test_topic)
    ids = [bus.enqueue_task(test_topic, n, delay_s=delay_s) for n in range(5)]
    if delay_s:  # sent before the clock was set back
        parked = dict.fromkeys(ids, f"e={AHEAD_MS}\n1")
        redis_client.hset(keys.named("parked", test_topic), mapping=parked)

    counts = bus.delete_topic(test_topic)

    assert counts == {"cancelled": 5, "discarded": 0}
    assert keys_of(redis_client, test_topic) == []


# --- told


def test_a_minute_far_ahead_is_not_the_last_one_for_good(
    test_topic: str, redis_client: redis.Redis
) -> None:
    redis_client.hset(keys.named("minutes", test_topic), "last", FAR_MINUTE)

    bus.enqueue_many(test_topic, range(5))

    assert accepted(test_topic) == 5


def test_what_is_done_under_an_id_ahead_is_done_now(
    test_topic: str, redis_client: redis.Redis
) -> None:
    set_back(redis_client, test_topic, "results")
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(5))

    desk.complete(*desk.claim(5))

    assert sum(rates.of_topics([test_topic])[test_topic].done) == 5


def test_what_is_sent_under_an_id_ahead_is_sent_once_and_now(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The cheap verb does not write it first, to leave it to the other one then."""
    set_back(redis_client, test_topic)
    stream = bus.task_stream(test_topic)
    bus.enqueue_task(test_topic, "begins the minute")
    before = redis_client.xinfo_stream(stream)["entries-added"]  # type: ignore[index]

    for n in range(20):
        bus.enqueue_task(test_topic, n)

    after = redis_client.xinfo_stream(stream)["entries-added"]  # type: ignore[index]
    assert after - before < 25  # a minute may begin meanwhile
    assert accepted(test_topic) == 21


def test_sends_that_know_no_other_minute_are_told_of_one(
    test_topic: str, redis_client: redis.Redis
) -> None:
    set_back(redis_client, test_topic)
    bus.enqueue_task(test_topic, 0)
    redis_client.hset(keys.named("minutes", test_topic), "last", FAR_MINUTE)

    auditor.audit(test_topic)
    bus.enqueue_many(test_topic, range(5))

    minutes = redis_client.hgetall(keys.named("minutes", test_topic))
    assert abs(int(minutes["last"]) - time.time() // 60) <= 1  # type: ignore[index]
    assert accepted(test_topic) >= 5


def test_no_task_waits_for_less_than_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    set_back(redis_client, test_topic)
    bus.enqueue_task(test_topic, 1)

    assert bus.stats(test_topic)["oldest_s"] == 0
    lines = [x for x in metrics.text().splitlines() if "oldest_waiting_seconds{" in x]
    assert [float(line.rpartition(" ")[2]) for line in lines] == [0.0]


# --- letters that failed alike


def alike_ones(client: redis.Redis, topic: str, count: int) -> tuple[str, list[str]]:
    """Letters of one failure that died after the clock was set back; the newest first,
    as the index has them."""
    town = build_town(client, topic)
    set_back(client, topic, "dead")
    desk = Desk(topic)
    ids = bus.enqueue_many(topic, range(count))
    while items := [item for item in desk.claim(100) if item.id in ids]:
        desk.fail_all(*(desk.failure(item, final=True) for item in items))
    group, stream = town.group(), bus.dead_stream(topic)
    sids = [str(sid) for sid, _ in client.xrange(stream)]  # type: ignore[union-attr]
    first_ms = messages.entry_ms(sids[0])  # one a ms, as if each had died by itself
    client.zadd(group, {sid: first_ms + n for n, sid in enumerate(sids)})
    return group.rpartition(":")[2], sids[::-1]


def test_pages_of_one_failure_have_every_letter_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    fingerprint, ids = alike_ones(redis_client, test_topic, 30)
    found: list[str] = []
    before = None

    while page := alike.list_alike(test_topic, fingerprint, 4, before):
        found += [each.entry_id for each in page]
        before = found[-1]
        assert len(found) <= len(ids)

    assert found == ids


def test_all_letters_of_one_failure_are_discarded(
    test_topic: str, redis_client: redis.Redis
) -> None:
    fingerprint, ids = alike_ones(redis_client, test_topic, 130)

    discarded = purges.discard_alike(test_topic, fingerprint)

    assert discarded == len(ids) == 131
    assert bus.stats(test_topic)["dead"] == 0
