"""A janitor's look at many topics: few trips, and one in trouble costs no other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import redis

import bus
from bus import errors, keys, looks
from bus.judge import Judge
from tests.support.desk import Desk

PAST = "2020-01-01T00:00:00.000Z"


@pytest.fixture
def topics(test_topic: str, redis_client: redis.Redis) -> list[str]:
    """Twenty of them, each with one task that was due long ago."""
    names = [f"{test_topic}-{number}" for number in range(20)]
    for name in names:
        due(name, redis_client, 1)
    return names


def due(topic: str, client: redis.Redis, count: int) -> None:
    """Tasks whose time comes all at once."""
    ids = [bus.enqueue_task(topic, n, delay_s=3_600) for n in range(count)]
    client.zadd(keys.named("delayed", topic), dict.fromkeys(ids, 1_000))


def trips(client: redis.Redis) -> int:
    facts: Any = client.info("stats")
    return int(facts["total_reads_processed"])


def test_what_is_due_is_promoted_in_all_of_them_by_few_trips(
    topics: list[str], redis_client: redis.Redis
) -> None:
    redis_client.script_flush()
    before = trips(redis_client)
    first = [each.due_s() for each in looks.look(topics, tidy=True)]
    between = trips(redis_client)
    again = [each.due_s() for each in looks.look(topics, tidy=True)]
    after = trips(redis_client)

    assert first == again == [math.inf] * 20
    assert [bus.stats(topic)["waiting"] for topic in topics] == [1] * 20
    # The first look has to tell the server the script.
    assert between - before < 60
    assert after - between <= 3 + 1


def test_more_than_one_call_promotes_are_promoted(
    test_topic: str, redis_client: redis.Redis
) -> None:
    due(test_topic, redis_client, 250)
    bus.enqueue_task(test_topic, "later", delay_s=3_600)

    [seen] = looks.look([test_topic], tidy=None)

    assert 3_500 < seen.due_s() <= 3_600
    assert bus.stats(test_topic)["waiting"] == 250


def test_one_in_trouble_says_so_and_costs_no_other(
    topics: list[str], redis_client: redis.Redis
) -> None:
    redis_client.delete(keys.named("delayed", topics[3]))
    redis_client.set(keys.named("delayed", topics[3]), "no set")
    redis_client.delete(keys.named("settings", topics[5]))
    redis_client.set(keys.named("settings", topics[5]), "no hash")

    seen = list(looks.look(topics, tidy=False))

    assert [each.topic for each in seen] == topics
    with pytest.raises(errors.BusError, match="delayed"):
        seen[3].due_s()
    with pytest.raises(errors.BusError, match="settings"):
        Judge("me#00000001").heed(seen[5], tidy=False)
    for at in (4, 19):
        assert seen[at].due_s() == math.inf
        assert Judge("me#00000001").heed(seen[at], tidy=False) == 0


def test_a_judge_acts_on_what_was_seen(
    test_topic: str, redis_client: redis.Redis, settings: Any
) -> None:
    settings.MESH_LEASE_S = 0.001
    bus.enqueue_task(test_topic, 1)
    assert Desk(test_topic, "gone#00000001").claim(1)
    redis_client.script_flush()

    # Once by the call that tells the server the script, once by what was seen.
    [unknown] = looks.look([test_topic], tidy=True)
    [seen] = looks.look([test_topic], tidy=True)

    assert isinstance(unknown.holding, redis.exceptions.NoScriptError)
    assert Judge("me#00000001").heed(unknown, tidy=True) == 1
    assert bus.stats(test_topic)["lost"] == 1
    assert Judge("me#00000001").heed(seen, tidy=True) == 0, "taken already"
