"""What goes wrong under those who follow live costs them nothing that comes later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import bus
from bus import errors, feed, keys
from bus.live import tailer
from bus.live.following import Following
from bus.live.polls import Poll
from tests.support.waiting import wait_until_async

MARK = pytest.mark.asyncio


async def told(following: Following, *ops: str) -> dict[str, Any]:
    """The next frame of one of these kinds."""
    async with asyncio.timeout(20):
        async for frame in following:
            if frame.op in ops:
                return dict(json.loads(frame.text()))
    raise AssertionError("nothing more comes")


@MARK
async def test_a_list_of_topics_that_is_none_is_asked_for_again(
    test_topic: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    later = f"{test_topic}-later"
    async with feed.shared().subscribe(None) as following:
        redis_client.set(keys.TOPICS, "by hand")
        await wait_until_async(lambda: "cannot list topics" in caplog.text, 10)

        redis_client.delete(keys.TOPICS)
        redis_client.sadd(keys.TOPICS, test_topic, later)
        redis_client.xadd(bus.result_stream(later), {"id": "1", "json": "{}"})

        assert (await told(following, "results"))["topic"] == later


@pytest.fixture(autouse=True)
def a_topic(test_topic: str) -> Iterator[None]:
    """Somebody has sent something, so there is a list of topics."""
    bus.create_consumer_group(test_topic, "g")
    yield


@MARK
async def test_who_follows_all_without_a_server_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    with monkeypatch.context() as away:
        away.setenv("REDIS_URL", f"redis://127.0.0.1:{unused_tcp_port}/0")
        with pytest.raises(errors.BusUnavailable):
            async with feed.shared().subscribe(None):
                pass


@MARK
async def test_a_snapshot_that_fails_is_taken_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.live.polls._EVERY_S", 0.01)
    fates: list[Any] = [errors.BusUnavailable("away"), KeyError("a bug"), "a value"]

    def look() -> str:
        fate = fates.pop(0) if len(fates) > 1 else fates[0]
        if isinstance(fate, Exception):
            raise fate
        return str(fate)

    poll, changed = Poll(look), asyncio.Event()
    poll.listen(changed)
    await asyncio.wait_for(changed.wait(), 10)
    poll.leave(changed)

    assert "a snapshot failed" in caplog.text and "a bug" in caplog.text
    assert "away" not in caplog.text, "the reader of the feed says so already"


@MARK
async def test_letters_by_hand_are_told_whatever_is_in_them(
    test_topic: str, redis_client: redis.Redis
) -> None:
    big, endless = 2**70, json.dumps(["x" * 1_000] * 500)
    async with feed.shared().subscribe([test_topic]) as following:
        for payload in (str(big), endless):
            text = f'{{"id": "by-hand", "payload": {payload}}}'
            redis_client.xadd(bus.dead_stream(test_topic), {"id": "1", "json": text})
        rows: list[dict[str, Any]] = []
        while len(rows) < 2:
            rows += (await told(following, "dead"))["rows"]

    assert rows[0]["task"] == big
    assert rows[1]["task"] is None and rows[1]["clipped"]


@MARK
async def test_who_follows_all_after_one_who_left_at_once_misses_nothing(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer, "_LINGER_S", 0.05)
    shared = feed.shared()
    first = asyncio.create_task(shared._roster.join())
    await asyncio.sleep(0)  # it asks for the list
    asking = shared._roster._first
    assert asking is not None
    first.cancel()
    await asyncio.wait([first, asking])
    await wait_until_async(lambda: not shared.tailer.streams, 20)

    async with shared.subscribe(None) as following:
        attached = set(shared.tailer.streams)
        redis_client.xadd(bus.result_stream(test_topic), {"id": "1", "json": "{}"})

        assert bus.result_stream(test_topic) in attached
        assert (await told(following, "results"))["topic"] == test_topic
