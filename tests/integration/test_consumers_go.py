"""Consumers that hold nothing go after a while; one that holds a task never does."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import bus
from bus import judge, keys, scripts
from bus.judge import Judge
from tests.support.desk import GROUP


def consumers(client: redis.Redis, topic: str) -> set[str]:
    rows: Any = client.xinfo_consumers(keys.task_stream(topic), GROUP)
    return {row["name"] for row in rows}


def known(client: redis.Redis, topic: str, *names: str) -> None:
    """As if each had read and found nothing; Redis 7.0 forgets those who did."""
    for name in names:
        client.xgroup_createconsumer(keys.task_stream(topic), GROUP, name)


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is silent for a moment counts as silent for long."""
    monkeypatch.setattr(judge, "_ENDED_MS", 0)
    monkeypatch.setattr(judge, "_SILENT_MS", 0)


def test_a_consumer_that_is_silent_for_an_hour_goes(
    test_topic: str, redis_client: redis.Redis, long_ago: None
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, GROUP, "holds one", block_ms=0)
    known(redis_client, test_topic, "by hand", "ended#00000001", "me#00000001")
    assert len(consumers(redis_client, test_topic)) == 4

    Judge("me#00000001").reclaim(test_topic)

    assert consumers(redis_client, test_topic) == {"holds one", "me#00000001"}


def test_nobody_goes_before_the_time(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    known(redis_client, test_topic, "by hand")

    Judge("me#00000001").reclaim(test_topic)

    assert consumers(redis_client, test_topic) == {"by hand"}


def test_one_that_was_heard_of_since_it_was_judged_stays(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The silence and the empty hand are looked at again in the step that removes."""
    bus.create_consumer_group(test_topic, GROUP)
    known(redis_client, test_topic, "came back")
    bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, GROUP, "holds one", block_ms=0)

    drops = [
        scripts.run("drop_consumer", test_topic, [GROUP, "came back", 60_000]),
        scripts.run("drop_consumer", test_topic, [GROUP, "holds one", 0]),
        scripts.run("drop_consumer", test_topic, [GROUP, "nobody", 0]),
        scripts.run("drop_consumer", test_topic, ["no group", "nobody", 0]),
    ]

    assert drops == [0, 0, 0, 0]
    assert consumers(redis_client, test_topic) == {"came back", "holds one"}


def test_one_that_comes_back_is_given_tasks_again(
    test_topic: str, redis_client: redis.Redis, long_ago: None
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    known(redis_client, test_topic, "by hand")
    Judge("me#00000001").reclaim(test_topic)
    assert consumers(redis_client, test_topic) == set()
    bus.enqueue_task(test_topic, 1)

    [(entry_id, _)] = bus.read_group(test_topic, GROUP, "by hand", block_ms=0)

    assert bus.ack(test_topic, GROUP, entry_id) == 1
