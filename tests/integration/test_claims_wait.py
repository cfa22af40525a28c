"""Claims that wait, behind a real web server: woken by what comes, one at a time."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis

import bus
from bus import accounts, leases, looks
from bus.api import waiting
from bus.live import arrivals
from tests.support.api import ROOT
from tests.support.desk import Desk
from tests.support.site import LiveSite
from tests.support.waiting import wait_until, wait_until_async

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]

Claims = Callable[..., Future[httpx2.Response]]


@pytest.fixture
def http(live_site: LiveSite) -> Iterator[httpx2.Client]:
    """A client with the token of an agent, which is registered as `a`."""
    token = accounts.create_token("live", "agent")[1]
    leases.register("a", "t", 60, {}, None)
    with httpx2.Client(
        base_url=f"{live_site.url}{ROOT}/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=40,
        trust_env=False,
        limits=httpx2.Limits(max_connections=200),
    ) as client:
        yield client


@pytest.fixture
def claim(http: httpx2.Client) -> Iterator[Claims]:
    """Sends claims, each on a thread."""
    with ThreadPoolExecutor(60) as pool:

        def send(topic: str, wait_s: float, **more: Any) -> Future[httpx2.Response]:
            body = {"agent_id": "a", "wait_s": wait_s, **more}
            return pool.submit(http.post, f"topics/{topic}/claim", json=body)

        yield send


def guests(live_site: LiveSite, topic: str) -> int:
    """How many wait for tasks of a topic in the web server."""

    async def count() -> int:
        found = arrivals.shared()._topics.get(topic)
        return 0 if found is None else len(found.asleep)

    return live_site.call(count())


def ids(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [each["id"] for each in response.json()["deliveries"]]


def test_a_waiting_claim_gets_the_task_that_comes(
    live_site: LiveSite, claim: Claims, test_topic: str
) -> None:
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)

    task_id = bus.enqueue_task(test_topic, 1)

    assert ids(waiting.result(10)) == [task_id]


def test_a_claim_that_finds_nothing_ends_in_time(
    claim: Claims, test_topic: str
) -> None:
    began = time.monotonic()

    assert ids(claim(test_topic, 0.3).result(10)) == []
    assert time.monotonic() - began >= 0.3


def test_a_delayed_task_wakes_a_claim_when_it_is_due(
    live_site: LiveSite, claim: Claims, test_topic: str
) -> None:

    task_id = bus.enqueue_task(test_topic, 1, delay_s=0.2)
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)

    wait_until(lambda: looks.promote(test_topic) >= 0 and waiting.done(), 10)

    assert ids(waiting.result(1)) == [task_id]


def test_a_task_that_is_handed_over_is_found(
    live_site: LiveSite, claim: Claims, test_topic: str
) -> None:
    """No new entry tells of it."""
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    item = desk.one()
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)

    desk.release(item)

    assert ids(waiting.result(10)) == [task_id]


def test_a_topic_that_is_resumed_gives_what_it_has(
    live_site: LiveSite, claim: Claims, test_topic: str
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.pause(test_topic)
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)

    bus.resume(test_topic)

    assert ids(waiting.result(10)) == [task_id]


def test_many_wait_and_each_task_goes_to_one(
    live_site: LiveSite, claim: Claims, test_topic: str
) -> None:
    waiting = [claim(test_topic, 30) for _ in range(40)]
    wait_until(lambda: guests(live_site, test_topic) == 40, 30)

    sent = bus.enqueue_many(test_topic, range(40))

    got = [task_id for each in waiting for task_id in ids(each.result(30))]
    assert sorted(got) == sorted(sent)


def test_a_reader_that_lost_its_connection_comes_back(
    live_site: LiveSite,
    claim: Claims,
    test_topic: str,
    redis_client: redis.Redis,
) -> None:
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)

    for row in redis_client.client_list():
        if row["name"] == "mesh-arrivals":
            redis_client.client_kill_filter(_id=row["id"])
    task_id = bus.enqueue_task(test_topic, 1)

    assert ids(waiting.result(20)) == [task_id]


def test_a_topic_whose_stream_is_no_stream_fails_no_other(
    live_site: LiveSite,
    claim: Claims,
    test_topic: str,
    redis_client: redis.Redis,
) -> None:
    waiting = claim(test_topic, 30)
    wait_until(lambda: guests(live_site, test_topic) == 1, 10)
    redis_client.set(bus.task_stream(f"{test_topic}:odd"), "x", px=60_000)

    odd = claim(f"{test_topic}:odd", 1)
    assert odd.result(20).json()["code"] == "damaged_key"
    task_id = bus.enqueue_task(test_topic, 1)

    assert ids(waiting.result(20)) == [task_id]


def test_waits_hold_no_thread_and_two_connections(
    live_site: LiveSite,
    claim: Claims,
    test_topic: str,
    redis_client: redis.Redis,
) -> None:
    def connections() -> int:
        named = [row["name"] for row in redis_client.client_list()]
        return named.count("mesh-arrivals")

    ids(claim(test_topic, 0.1).result(10))
    ours = {each.name for each in threading.enumerate()}
    waiting = [claim(test_topic, 3) for _ in range(30)]
    wait_until(lambda: guests(live_site, test_topic) == 30, 30)

    new = {each.name for each in threading.enumerate()} - ours
    assert connections() <= 2
    # Those of this test's pool wait for the answers; Django's look and are done.
    assert not [name for name in new if name.startswith("asyncio")]
    assert [ids(each.result(10)) for each in waiting] == [[]] * 30


def test_who_hangs_up_takes_nothing(
    live_site: LiveSite, http: httpx2.Client, test_topic: str
) -> None:
    body = {"agent_id": "a", "wait_s": 30}
    with pytest.raises(httpx2.TimeoutException):
        http.post(f"topics/{test_topic}/claim", json=body, timeout=0.5)
    wait_until(lambda: guests(live_site, test_topic) == 0, 10)

    task_id = bus.enqueue_task(test_topic, 1)

    assert bus.get_task(task_id, test_topic).state == "waiting"
    again = http.post(f"topics/{test_topic}/claim", json={"agent_id": "a"})
    assert ids(again) == [task_id]


def test_a_server_that_stops_lets_claims_go(test_topic: str, http: Any) -> None:
    """Each with what it has: nothing."""
    token = accounts.create_token("other", "agent")[1]
    with ThreadPoolExecutor(1) as pool, LiveSite() as other:
        waiting = pool.submit(
            httpx2.post,
            f"{other.url}{ROOT}/topics/{test_topic}/claim",
            json={"agent_id": "a", "wait_s": 30},
            headers={"Authorization": f"Bearer {token}"},
            timeout=40,
            trust_env=False,
        )
        wait_until(lambda: guests(other, test_topic) == 1, 10)

        async def close() -> None:
            arrivals.shared().close()

        other.call(close())

        assert ids(waiting.result(10)) == []


def test_a_repeat_of_a_waiting_claim_gives_the_same(
    claim: Claims, test_topic: str
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    first = claim(test_topic, 30, claim_id="one").result(10)
    again = claim(test_topic, 30, claim_id="one").result(10)

    assert ids(first) == [task_id]
    assert again.json() == first.json()


def test_a_wrong_claim_does_not_wait(claim: Claims, test_topic: str) -> None:
    for more in ({"wait_s": 31}, {"agent_id": "nobody"}, {"count": 0}):
        began = time.monotonic()
        response = claim(test_topic, **{"wait_s": 20, **more}).result(10)
        assert response.status_code in (404, 422)
        assert time.monotonic() - began < 10


def test_whoever_waited_does_not_hold_a_loop_that_ended(test_topic: str) -> None:
    async def waits() -> weakref.ref[asyncio.AbstractEventLoop]:
        async with arrivals.shared().waiting(test_topic):
            bus.enqueue_task(test_topic, 1)  # ends the read that is under way
        await asyncio.sleep(0.2)  # so that the reader rests, as nobody waits
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(waits())
    gc.collect()

    assert loop() is None


def test_a_wait_that_is_cancelled_is_not_woken_any_more(test_topic: str) -> None:
    """Else what comes would wake it in the place of one that still waits."""

    async def receive() -> Any:
        await asyncio.get_running_loop().create_future()

    async def story() -> int:
        topics = arrivals.shared()._topics
        looks: Counter[str] = Counter()

        async def look(who: str) -> None:
            looks[who] += 1
            if looks[who] > 2:  # one before the wait, one as it begins, and then
                await asyncio.get_running_loop().create_future()

        async def waits(who: str) -> asyncio.Task[None]:
            before = len(topics[test_topic].asleep) if topics else 0
            patient = waiting.patiently(
                test_topic, 60, lambda: look(who), lambda _: True, receive
            )
            task = asyncio.create_task(patient)
            await wait_until_async(
                lambda: topics and len(topics[test_topic].asleep) > before
            )
            return task

        await waits("first")
        second = await waits("second")
        second.cancel()
        await wait_until_async(lambda: looks["first"] > 2)
        await asyncio.wait([second])
        return len(topics[test_topic].asleep)

    assert asyncio.run(story()) == 0
