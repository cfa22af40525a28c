"""Rows of a topic's rings, written as its scripts leave them."""

from __future__ import annotations

import redis

from bus import keys


def hour_of(client: redis.Redis) -> int:
    """The hour of the server's clock, counted from 1970."""
    return int(client.time()[0]) // 3600


def write_hour(client: redis.Redis, topic: str, hour: int, counts: str) -> None:
    """Counts of an hour that is over, or of the running one."""
    client.hset(keys.named("hours", topic), str(hour % 720), f"{hour} {counts}")


def write_minute(client: redis.Redis, topic: str, minute: int, counts: str) -> None:
    """Counts of the minute that is the topic's last one."""
    row = {"last": minute, str(minute % 180): f"{minute} {counts}"}
    client.hset(keys.named("minutes", topic), mapping=row)
