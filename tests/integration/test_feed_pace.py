"""Followers that are to be told all there is: no bound but what the streams hold."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import feed
from bus.live import past
from bus.live.following import Pace
from tests.integration.test_feed_follows import Seen, on_a_loop, publish, telling

ALL = Pace(frames_per_s=1_000, rows_per_frame=100, catch_up_rows=None)


def test_whoever_was_away_for_long_is_told_all_the_stream_holds(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_FEED_CATCH_UP_MAX = 100
    publish(redis_client, test_topic, range(2_500))
    after = {bus.result_stream(test_topic): "0-0"}

    async def story() -> Seen:
        seen, live = Seen(), feed.shared()
        async with live.subscribe([test_topic], after, pace=ALL) as following:
            await seen.until(following, lambda: len(seen.rows) >= 2_500)
            await seen.rest(following, 0.2)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(2_500))
    assert seen.gaps == []


def test_whoever_the_window_went_past_reads_the_stream_instead(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_ROWS_MOST", 100)

    async def story() -> Seen:
        seen, live = Seen(), feed.shared()
        async with live.subscribe([test_topic], pace=ALL) as following:
            for start in range(0, 1_000, 100):
                await asyncio.to_thread(
                    publish, redis_client, test_topic, range(start, start + 100)
                )
            async with asyncio.timeout(10):
                while live.window.end < 1_000:
                    await asyncio.sleep(0.01)
            await seen.until(following, lambda: len(seen.rows) >= 1_000)
            await asyncio.to_thread(
                publish, redis_client, test_topic, range(1_000, 1_010)
            )
            await seen.until(following, lambda: len(seen.rows) >= 1_010)
            await seen.rest(following, 0.2)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(1_010))
    assert seen.gaps == []


def test_rows_trimmed_while_they_are_read_are_counted(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race: the stream is trimmed past a follower between two of its pages."""
    publish(redis_client, test_topic, range(1_000))
    key, real = bus.result_stream(test_topic), past._page
    pages = 0

    async def page(*args: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 3:
            await asyncio.to_thread(
                redis_client.xtrim, key, maxlen=300, approximate=False
            )
        return await real(*args)

    monkeypatch.setattr(past, "_page", page)

    async def story() -> Seen:
        seen, live = Seen(), feed.shared()
        async with live.subscribe([test_topic], {key: "0-0"}, pace=ALL) as following:
            await seen.until(following, lambda: seen.frames[-1:] and seen.gaps)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == [*range(200), *range(700, 1_000)]
    assert seen.gaps == [500]
    assert seen.after[key].endswith("/1000")


def test_whoever_leaves_amid_the_past_is_told_what_was_trimmed_since(
    test_topic: str, redis_client: redis.Redis
) -> None:
    publish(redis_client, test_topic, range(1_000))
    key = bus.result_stream(test_topic)

    async def story(after: str, goal: int) -> Seen:
        seen, live = Seen(), feed.shared()
        async with live.subscribe([test_topic], {key: after}, pace=ALL) as following:
            await seen.until(following, lambda: len(seen.rows) >= goal)
        return seen

    first = on_a_loop(lambda: story("0-0", 200))
    redis_client.xtrim(key, maxlen=300, approximate=False)
    second = on_a_loop(lambda: story(first.after[key], 300))

    assert first.rows == list(range(200))
    assert second.gaps == [500]
    assert second.rows == list(range(700, 1_000))


def test_a_follower_says_from_where_it_would_resume(
    test_topic: str, redis_client: redis.Redis
) -> None:
    publish(redis_client, test_topic, range(3))
    key = bus.result_stream(test_topic)
    [(last, _)] = redis_client.xrevrange(key, count=1)

    async def story() -> list[str | None]:
        live = feed.shared()
        async with live.subscribe([test_topic], kinds=["results"]) as following:
            first = following.cursor(key)
            await asyncio.to_thread(publish, redis_client, test_topic, range(3, 4))
            seen = Seen()
            await seen.until(following, lambda: seen.rows)
            other = following.cursor(bus.dead_stream(test_topic))
            return [first, following.cursor(key), other]

    before, after, other = on_a_loop(story)

    assert before == f"{last}/3"
    assert after is not None and after.endswith("/4")
    assert other is None


def test_big_rows_are_split_over_frames_and_too_big_ones_clipped(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)

    def write() -> None:
        for number, size in enumerate((100_000, 100_000, 100_000, 900_000)):
            row = {"id": str(number), "state": "done", "result": "ü" * size}
            text = json.dumps(row, ensure_ascii=False)
            redis_client.xadd(key, {"id": str(number), "json": text})

    async def story(after: str) -> list[str]:
        texts: list[str] = []
        cursor = {key: after} if after else {}
        async with feed.shared().subscribe([test_topic], cursor) as following:
            if not after:
                await asyncio.to_thread(write)
            while sum(text.count('"entry_id"') for text in texts) < 4:
                texts.append((await telling(following)).text())
        return texts

    live, caught_up = on_a_loop(lambda: story("")), on_a_loop(lambda: story("0-0"))

    for texts in (live, caught_up):
        rows = [row for text in texts for row in json.loads(text)["rows"]]
        assert max(len(text.encode()) for text in texts) < 1024 * 1024
        assert [len(row["result"] or "") for row in rows] == [100_000] * 3 + [0]
        assert rows[3]["clipped"] and rows[3]["state"] == "done"
