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
