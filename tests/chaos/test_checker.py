"""Proof that the invariant checker sees: every wound in a topic's data is named."""

from __future__ import annotations

import pytest
import redis

from tests.support.keyspace import wounds
from tests.support.town import SABOTAGE, Town, build_town


@pytest.fixture
def town(redis_client: redis.Redis, test_topic: str) -> Town:
    return build_town(redis_client, test_topic)


@pytest.mark.parametrize("name", SABOTAGE)
def test_every_wound_is_named(town: Town, name: str) -> None:
    assert wounds(town.client, town.topic) == []

    SABOTAGE[name](town)

    assert wounds(town.client, town.topic)


def test_a_past_that_says_nothing_is_named(town: Town) -> None:
    """No wound that an audit could mend: bytes that every plain task would pay."""
    fields = {"id": town.done, "json": "{}", "epoch": "0", "attempts": ""}
    town.client.xadd(town.key("results"), fields)  # type: ignore[arg-type]

    assert any("says nothing" in one for one in wounds(town.client, town.topic))
