"""Following topics live: everything exactly once, or an honest count of what is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, feed, tasks
from bus.live.following import Following
from bus.live.frames import Frame
from bus.live.polls import Poll
from tests.support.desk import Desk
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.slow


def on_a_loop(story: Callable[[], Awaitable[Any]]) -> Any:
    """Run a story on a loop of its own, as a server process would."""

    async def main() -> Any:
        return await asyncio.wait_for(story(), 60)

    return asyncio.run(main())


class Seen:
    """What a follower was told, as a page would keep it."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.letters: list[str] = []
        self.after: dict[str, str] = {}
        self.gaps: list[int | None] = []
        self.frames: list[Frame] = []
        self.at: list[float] = []

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.at.append(time.monotonic())
        told = json.loads(frame.text())
        self.after |= told["after"] if isinstance(told.get("after"), dict) else {}
        if frame.op == "results":
            self.rows += [row["result"] for row in told["rows"]]
        elif frame.op == "dead":
            self.letters += [row["id"] for row in told["rows"]]
        elif frame.op == "gone":
            for row in told["left"]:
                self.letters = [each for each in self.letters if each != row["id"]]
        elif frame.op == "gap":
            self.gaps.append(told["missed"])
            self.after[told["stream"]] = told["after"]

    async def until(
        self, following: Following, done: Callable[[], Any], timeout_s: float = 20
    ) -> None:
        async with asyncio.timeout(timeout_s):
            while not done():
                self.take(await anext(following))

    async def rest(self, following: Following, for_s: float = 0.5) -> None:
        """Whatever else comes for a while."""
        try:
            await self.until(following, lambda: False, for_s)
        except TimeoutError:
            return


async def telling(following: Following) -> Frame:
    """The next frame that tells of entries."""
    frame = await anext(following)
    return frame if frame.op != "live" else await anext(following)


def publish(client: redis.Redis, topic: str, numbers: range) -> None:
    """Results as the scripts write them, without the way there."""
    pipe = client.pipeline(transaction=False)
    for number in numbers:
        row = {"id": tasks.new_id(), "topic": topic, "state": "done", "result": number}
        fields = {"id": str(row["id"]), "json": json.dumps(row)}
        pipe.xadd(bus.result_stream(topic), fields)
    pipe.sadd("mesh:topics", topic)
    pipe.execute()


# --- exactly once


def test_results_come_with_their_row_and_cursor(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1})
    desk = Desk(test_topic)

    async def story() -> dict[str, Any]:
        async with feed.shared().subscribe([test_topic]) as following:
            await asyncio.to_thread(lambda: desk.complete(desk.one()))
            return json.loads((await telling(following)).text())

    frame = on_a_loop(story)

    [row] = frame["rows"]
    assert frame["op"] == "results" and frame["topic"] == test_topic
    assert frame["after"] == {bus.result_stream(test_topic): f"{row['entry_id']}/1"}
    assert (row["id"], row["state"], row["task"]) == (task_id, "done", {"n": 1})


def test_the_seam_between_past_and_live_loses_and_doubles_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Followers join and resume at any moment of a steady stream of results."""
    total = 3_000

    async def writer() -> None:
        for start in range(0, total, 50):
            await asyncio.to_thread(
                publish, redis_client, test_topic, range(start, start + 50)
            )
            await asyncio.sleep(0.01)

    async def reader(seen: Seen, legs: int) -> None:
        live = feed.shared()
        for leg in range(legs):
            after = seen.after or {bus.result_stream(test_topic): "0-0"}
            goal = total * (leg + 1) // legs
            async with live.subscribe([test_topic], after) as following:
                await seen.until(following, lambda goal=goal: len(seen.rows) >= goal)

    async def story() -> list[Seen]:
        readers = [Seen() for _ in range(6)]
        work = [reader(seen, 1 + nth * 3) for nth, seen in enumerate(readers)]
        await asyncio.gather(writer(), *work)
        return readers

    for seen in on_a_loop(story):
        assert seen.rows == list(range(total))
        assert seen.gaps == []


def test_a_page_newer_than_the_reader_is_not_told_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The race: a page is rendered from entries that the feed has yet to read."""

    async def story() -> Seen:
        live, seen = feed.shared(), Seen()
        async with live.subscribe([test_topic]) as first:
            publish(redis_client, test_topic, range(10))  # the loop is held meanwhile
            [(head, _)] = redis_client.xrevrange(bus.result_stream(test_topic), count=1)
            after = {bus.result_stream(test_topic): head}
            async with live.subscribe([test_topic], after) as second:
                await Seen().until(first, lambda: live.window.end >= 10)
                await asyncio.to_thread(
                    publish, redis_client, test_topic, range(10, 12)
                )
                await seen.until(second, lambda: len(seen.rows) >= 2)
                await seen.rest(second, 0.3)
        return seen

    assert on_a_loop(story).rows == [10, 11]


def test_a_topic_that_appears_later_is_followed_from_its_first_entry(
    test_topic: str, redis_client: redis.Redis
) -> None:
    later = f"{test_topic}-later"

    async def story() -> tuple[Seen, float]:
        seen = Seen()
        async with feed.shared().subscribe(None) as following:
            await asyncio.sleep(0.1)
            began = time.monotonic()
            with Stalls() as stalls:
                await asyncio.to_thread(publish, redis_client, later, range(120))
                await seen.until(following, lambda: len(seen.rows) >= 120)
            return seen, time.monotonic() - began - stalls.total_s

    seen, took_s = on_a_loop(story)

    assert seen.rows == list(range(120))
    assert took_s < 1.5


def test_topics_that_somebody_may_not_see_stay_hidden(
    test_topic: str, redis_client: redis.Redis
) -> None:
    secret = f"secret-{test_topic}"

    async def story() -> Seen:
        seen = Seen()
        live = feed.shared()
        async with live.subscribe(None, may=lambda name: name != secret) as following:
            await asyncio.to_thread(publish, redis_client, secret, range(5))
            await asyncio.to_thread(publish, redis_client, test_topic, range(5, 8))
            await seen.until(following, lambda: len(seen.rows) >= 3)
            await seen.rest(following, 1.2)
        return seen

    assert on_a_loop(story).rows == [5, 6, 7]


def test_a_restart_of_the_server_is_survived_without_loss_or_double(
    own_server: Any,
) -> None:
    def client() -> redis.Redis:
        return redis.Redis.from_url(own_server.url, decode_responses=True)

    async def story() -> Seen:
        seen = Seen()
        async with feed.shared().subscribe(["again"]) as following:
            with client() as before:
                await asyncio.to_thread(publish, before, "again", range(100))
            await seen.until(following, lambda: len(seen.rows) >= 100)
            await asyncio.to_thread(own_server.stop)
            await seen.until(
                following, lambda: seen.frames[-1].facts.get("up") is False
            )
            await asyncio.to_thread(own_server.start)
            connection.reset()
            with client() as after:
                await asyncio.to_thread(publish, after, "again", range(100, 200))
            await seen.until(following, lambda: len(seen.rows) >= 200)
            await seen.rest(following)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(200))
    assert seen.gaps == []
    assert [f.facts["up"] for f in seen.frames if f.op == "bus"] == [False, True]


def test_a_server_that_lost_its_newest_entries_does_not_hide_what_comes(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)

    async def story() -> Seen:
        seen = Seen()
        ahead = {key: "9999999999999-0"}
        async with feed.shared().subscribe([test_topic], ahead) as following:
            await asyncio.to_thread(publish, redis_client, test_topic, range(3))
            await seen.until(following, lambda: len(seen.rows) >= 3)
        return seen

    assert on_a_loop(story).rows == [0, 1, 2]


# --- gaps


def test_what_was_trimmed_while_away_is_counted(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)
    publish(redis_client, test_topic, range(10))

    async def story(seen: Seen) -> Seen:
        after = seen.after or {key: "0-0"}
        goal = len(seen.rows) + 10
        async with feed.shared().subscribe([test_topic], after) as following:
            await seen.until(following, lambda: len(seen.rows) >= goal)
            await seen.rest(following, 0.2)
        return seen

    seen = on_a_loop(lambda: story(Seen()))
    publish(redis_client, test_topic, range(10, 110))
    redis_client.xtrim(key, maxlen=10, approximate=False)
    seen = on_a_loop(lambda: story(seen))  # another process, with nothing but cursors

    assert seen.rows == [*range(10), *range(100, 110)]
    assert seen.gaps == [90]


def test_a_gap_that_nobody_can_count_says_so(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)
    publish(redis_client, test_topic, range(10))
    [(head, _)] = redis_client.xrevrange(key, count=1)
    publish(redis_client, test_topic, range(10, 110))
    redis_client.xtrim(key, maxlen=10, approximate=False)

    async def story() -> Seen:
        seen = Seen()
        async with feed.shared().subscribe([test_topic], {key: head}) as following:
            await seen.until(following, lambda: len(seen.rows) >= 10)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(100, 110))
    assert seen.gaps == [None]


def test_what_was_trimmed_before_the_reader_came_to_it_is_counted(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The loop is held for a moment (a stall), and the stream runs on without it."""
    key = bus.result_stream(test_topic)

    async def story() -> Seen:
        seen = Seen()
        async with feed.shared().subscribe([test_topic]) as following:
            await asyncio.to_thread(publish, redis_client, test_topic, range(10))
            await seen.until(following, lambda: len(seen.rows) >= 10)
            with redis_client.pipeline() as pipe:  # in one moment, as seen from outside
                for _ in range(500):
                    pipe.xadd(key, {"id": "x", "json": "{}"})
                pipe.xtrim(key, maxlen=0, approximate=False)
                pipe.execute()
            await seen.until(following, lambda: seen.gaps)
            await asyncio.to_thread(publish, redis_client, test_topic, range(10, 20))
            await seen.until(following, lambda: len(seen.rows) >= 20)
            await seen.rest(following, 1.2)
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(20))
    assert seen.gaps == [500]


def test_who_is_too_slow_gets_a_gap_and_not_the_memory(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_ROWS_MOST", 100)

    async def story() -> tuple[Seen, int]:
        live, seen = feed.shared(), Seen()
        async with live.subscribe([test_topic]) as following:
            for start in range(0, 1_000, 100):
                await asyncio.to_thread(
                    publish, redis_client, test_topic, range(start, start + 100)
                )
            async with asyncio.timeout(10):
                while live.window.end < 1_000:
                    await asyncio.sleep(0.01)
            await seen.until(following, lambda: seen.gaps)
            await asyncio.to_thread(
                publish, redis_client, test_topic, range(1_000, 1_010)
            )
            await seen.until(following, lambda: len(seen.rows) >= 10)
            return seen, live.window.end - live.window.start

    seen, kept = on_a_loop(story)

    assert seen.gaps == [1_000]
    assert seen.rows == list(range(1_000, 1_010))
    assert kept <= 100


def test_who_was_away_for_too_long_is_told_how_much_and_goes_on_live(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_FEED_CATCH_UP_MAX = 100
    key = bus.result_stream(test_topic)
    publish(redis_client, test_topic, range(500))
    [(first, _)] = redis_client.xrange(key, count=1)

    async def story() -> Seen:
        seen, after = Seen(), {key: f"{first}/1"}
        async with feed.shared().subscribe([test_topic], after) as following:
            await seen.until(following, lambda: seen.gaps)
            await asyncio.to_thread(publish, redis_client, test_topic, range(500, 505))
            await seen.until(following, lambda: len(seen.rows) >= 5)
        return seen

    seen = on_a_loop(story)

    assert seen.gaps == [499]
    assert seen.rows == list(range(500, 505))


def test_who_was_away_from_many_topics_is_told_so_many_rows_of_all_together(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_FEED_CATCH_UP_MAX = 100
    names = [f"{test_topic}-{at}" for at in range(3)]
    after = {}
    for name in names:
        publish(redis_client, name, range(61))
        [(first, _)] = redis_client.xrange(bus.result_stream(name), count=1)
        after[bus.result_stream(name)] = f"{first}/1"

    async def story() -> Seen:
        seen = Seen()
        async with feed.shared().subscribe(names, after) as following:
            await seen.until(
                following, lambda: seen.frames and seen.frames[-1].op == "live"
            )
        return seen

    seen = on_a_loop(story)

    assert seen.rows == list(range(1, 61))
    assert seen.gaps == [60, 60]


# --- dead letters


def test_letters_come_go_and_come_back(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> list[list[str]]:
        seen, told = Seen(), []
        async with feed.shared().subscribe([test_topic]) as following:
            for act in (
                lambda: desk.fail(desk.one(), final=True),
                lambda: bus.replay(task_id, test_topic),
                lambda: desk.fail(desk.one(), final=True),
                lambda: bus.discard(task_id, test_topic),
                lambda: bus.undo(task_id, test_topic),
            ):
                await asyncio.to_thread(act)
                count = len(seen.letters)
                await seen.until(
                    following, lambda count=count: len(seen.letters) != count
                )
                told.append(list(seen.letters))
        return told

    assert on_a_loop(story) == [[task_id], [], [task_id], [], [task_id]]


def test_letters_that_left_while_away_are_told(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)
    [letter] = bus.list_dead(test_topic)
    bus.replay(task_id, test_topic)

    async def story() -> Seen:
        seen = Seen()
        seen.letters.append(task_id)  # a page that was rendered before the replay
        after = {bus.dead_stream(test_topic): letter.entry_id}
        async with feed.shared().subscribe([test_topic], after) as following:
            await seen.until(following, lambda: not seen.letters)
        return seen

    assert on_a_loop(story).letters == []


def test_a_letter_that_left_and_came_again_is_there_in_the_end(
    test_topic: str,
) -> None:
    """Told late and in one go: which of its letters left is told by its time."""
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    def act() -> None:
        desk.fail(desk.one(), final=True)
        bus.replay(task_id, test_topic)
        desk.fail(desk.one(), final=True)

    async def story() -> list[dict[str, Any]]:
        live = feed.shared()
        async with live.subscribe([test_topic]) as following:
            await asyncio.to_thread(act)
            async with asyncio.timeout(5):
                while live.window.end < 5:
                    await asyncio.sleep(0.01)
            found = [await telling(following) for _ in range(2)]
            return [json.loads(frame.text()) for frame in found]

    gone, dead = on_a_loop(story)

    assert [gone["op"], dead["op"]] == ["gone", "dead"]
    assert gone["ids"] == [task_id]
    [row] = dead["rows"]
    assert row["id"] == task_id and row["epoch"] == 1
    assert gone["left"][0]["at"] < row["entry_id"]


# --- pace, snapshots, odd things


def test_a_follower_gets_at_most_20_frames_a_second_the_first_at_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    async def writer() -> None:
        for number in range(150):
            await asyncio.to_thread(
                publish, redis_client, test_topic, range(number, number + 1)
            )
            await asyncio.sleep(0.01)

    async def story() -> tuple[Seen, float]:
        seen = Seen()
        async with feed.shared().subscribe([test_topic]) as following:
            began = time.monotonic()
            work = asyncio.create_task(writer())
            with Stalls() as stalls:
                await seen.until(following, lambda: len(seen.rows) >= 150)
            await work
        return seen, began + stalls.total_s

    seen, began = on_a_loop(story)

    assert seen.rows == list(range(150))
    assert seen.at[0] - began < 0.25
    for first, beyond in zip(seen.at, seen.at[20:], strict=False):
        assert beyond - first > 0.99


def test_snapshots_are_taken_once_for_all_and_told_when_they_change() -> None:
    looks, value = 0, {"n": 1}

    def look() -> dict[str, int]:
        nonlocal looks
        looks += 1
        return dict(value)

    async def story() -> list[Any]:
        poll, first, second = Poll(look), asyncio.Event(), asyncio.Event()
        poll.listen(first)
        poll.listen(second)
        began = time.monotonic()
        await asyncio.wait_for(first.wait(), 10)
        await asyncio.wait_for(second.wait(), 10)
        first.clear()
        told, so_far = [poll.value], looks
        await wait_until_async(lambda: looks >= so_far + 2, 10, "it has looked again")
        assert not first.is_set(), "nothing is new"
        value["n"] = 2
        await asyncio.wait_for(first.wait(), 10)
        told.append(poll.value)
        poll.leave(first)
        poll.leave(second)
        assert looks <= 2 + time.monotonic() - began, "each of them looks"
        await asyncio.sleep(1.2)  # one look may have been under way
        told.append(looks)
        await asyncio.sleep(1.2)
        return told

    *told, looked = on_a_loop(story)
    assert told == [{"n": 1}, {"n": 2}]
    assert looks == looked, "somebody looks although nobody follows"


def test_a_key_of_another_type_does_not_take_the_feed_down(
    test_topic: str, redis_client: redis.Redis
) -> None:
    odd = f"{test_topic}-odd"
    redis_client.set(bus.result_stream(odd), "not a stream")

    async def story() -> Seen:
        seen = Seen()
        async with feed.shared().subscribe([test_topic, odd]) as following:
            await asyncio.to_thread(publish, redis_client, test_topic, range(5))
            await seen.until(following, lambda: len(seen.rows) >= 5)
            redis_client.delete(bus.dead_stream(odd))
            redis_client.set(bus.dead_stream(odd), "not a stream either")
            await asyncio.to_thread(publish, redis_client, test_topic, range(5, 10))
            await seen.until(following, lambda: len(seen.rows) >= 10)
        return seen

    assert on_a_loop(story).rows == list(range(10))


def test_rows_by_hand_are_told_as_they_are(
    test_topic: str, redis_client: redis.Redis
) -> None:
    key = bus.result_stream(test_topic)

    async def story() -> list[dict[str, Any]]:
        async with feed.shared().subscribe([test_topic]) as following:
            await asyncio.to_thread(redis_client.xadd, key, {"id": "1", "json": "no"})
            await asyncio.to_thread(redis_client.xadd, key, {"note": "\x00 ü"})
            rows: list[dict[str, Any]] = []
            while len(rows) < 2:
                rows += json.loads((await telling(following)).text())["rows"]
            return rows

    first, second = on_a_loop(story)

    assert (first["json"], first["topic"]) == ("no", test_topic)
    assert second["note"] == "\x00 ü"


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "1-", "-1-0", "1-0/x", "1-0/", "1-0/-1", "٣-0", "1-0\n"]
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(errors.InvalidName):
        feed.Feed().subscribe(["demo"], {"stream": cursor})
