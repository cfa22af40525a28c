"""A test that leaves what nobody bounds is told of it."""

from __future__ import annotations

import pytest
import redis

import bus
from bus import keys
from tests.support.desk import Desk
from tests.support.leaks import leaks


def test_a_topic_and_its_agents_are_no_leak(redis_client: redis.Redis) -> None:
    bus.register_agent("one", "t")
    bus.enqueue_many("leaks", range(5))
    bus.enqueue_task("leaks", 1, delay_s=60, idempotency_key="k")
    desk = Desk("leaks")
    desk.complete(desk.one())
    desk.fail(desk.one(), final=True)
    desk.fail(desk.one())

    assert redis_client.exists(keys.agent_key("one"))
    assert leaks(redis_client) == []


@pytest.mark.parametrize(
    ("name", "ttl_s", "said"),
    [
        (keys.agent_key("one"), None, "has no time to live"),
        (keys.rate_key("one"), None, "has no time to live"),
        ("mesh:{leaks}:invented", 60, "stands in no table"),
        ("stream:{leaks}", 60, "stands in no table"),
        ("of another", None, "has no time to live"),
    ],
)
def test_what_nobody_bounds_or_knows_is_a_leak(
    redis_client: redis.Redis, name: str, ttl_s: int | None, said: str
) -> None:
    redis_client.set(name, 1, ex=ttl_s)

    assert leaks(redis_client) == [f"{name} {said}"]
