"""Tasks that an agent gives back unstarted run once, wherever that is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

import bus
from bus import deliveries, errors
from bus.agent import Agent
from bus.deliveries import Delivery, Seat
from bus.handlers import Handler
from bus.runtime import lane
from bus.runtime.quiet import Quiet
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

QUICK = 20


class Work:
    """A handler of which one task is long and holds the only slot."""

    def __init__(self) -> None:
        self.fences: list[str] = []
        self.ids: list[str] = []
        self.hold = threading.Event()
        self.held = threading.Event()

    async def handle(self, payload: Any, task: bus.Task) -> Any:
        """`long` runs until `hold` is set; everything else ends at once."""
        self.ids.append(task.id)
        self.fences.append(task.fence)
        if payload == "long":
            self.held.set()
            while not self.hold.is_set():
                await asyncio.sleep(0.01)
        return payload

    def keep_busy(self, topic: str) -> list[str]:
        """Have the agent take a long task, and some that wait behind it."""
        quick = bus.enqueue_many(topic, range(QUICK))
        wait_until(lambda: bus.stats(topic)["done"] == QUICK, 10, "it is quick by now")
        [long] = bus.enqueue_many(topic, ["long"])
        assert self.held.wait(5)
        return [*quick, long, *bus.enqueue_many(topic, range(QUICK))]


def look_for_ours(agent: Agent) -> None:
    """As after an outage that only the beats have met."""
    agent._lanes[0].reached()


def waits(agent: Agent) -> bool:
    """Whether its reader blocks in the server, where handed-over rows wake nobody."""
    lanes = agent._lanes
    return bool(lanes) and lanes[0].intake._fine_until > time.monotonic() + 1


def test_what_is_on_its_way_back_is_not_taken_up_again(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, going, let_go = Work(), threading.Event(), threading.Event()
    real = deliveries.release

    async def slow(seat: Seat, held: Sequence[Delivery]) -> int:
        if held:
            going.set()
        while not let_go.is_set():
            await asyncio.sleep(0.01)
        return await real(seat, held)

    monkeypatch.setattr(deliveries, "release", slow)
    with agents.running(test_topic, work.handle, concurrency=1) as agent:
        ids = work.keep_busy(test_topic)
        assert going.wait(5), "it gives back what waits behind the long one"
        read = agent._lanes[0].intake.last_read
        look_for_ours(agent)
        wait_until(lambda: agent._lanes[0].intake.last_read > read, 5, "it has looked")
        let_go.set()
        wait_until(lambda: bus.stats(test_topic)["running"] == 1, 5, "all are back")
        work.hold.set()
        wait_until(lambda: bus.stats(test_topic)["done"] == len(ids), 10, "all ended")

    assert Counter(work.ids) == dict.fromkeys(ids, 1)


def test_what_could_not_be_given_back_is_not_left_to_its_lease(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, failed = Work(), threading.Event()
    real = deliveries.release

    async def refused(seat: Seat, held: Sequence[Delivery]) -> int:
        if held and not failed.is_set():
            failed.set()
            raise errors.BusUnavailable("simulated: nobody answers")
        return await real(seat, held)

    monkeypatch.setattr(deliveries, "release", refused)
    with agents.running(test_topic, work.handle, concurrency=1):
        ids = work.keep_busy(test_topic)
        assert failed.wait(5)
        work.hold.set()
        wait_until(lambda: bus.stats(test_topic)["done"] == len(ids), 10, "all ended")

    assert Counter(work.ids) == dict.fromkeys(ids, 1)
    assert bus.stats(test_topic)["lost"] == 0  # a lease lasts 15 s


def test_what_has_just_come_is_not_given_back(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long nothing ended: the sweeper may look between a read and its runs."""
    monkeypatch.setattr(lane, "_SWEEP_S", 0.0)
    work = Work()
    with agents.running(test_topic, work.handle, concurrency=30):
        for turn in range(1, 4):
            time.sleep(2 * lane._HOARD_S)  # nothing ends meanwhile
            bus.enqueue_many(test_topic, range(30))
            wait_until(lambda: len(work.ids) == 30 * turn, 10)  # noqa: B023

    assert {fence.rpartition(".")[2] for fence in work.fences} == {"0"}


def test_one_slot_takes_over_more_than_a_task_per_beat(test_topic: str) -> None:
    work, desk = Work(), Desk(test_topic)
    bus.enqueue_many(test_topic, range(60))
    in_hand = desk.claim(60)
    with agents.running(test_topic, work.handle, concurrency=1) as agent:
        wait_until(lambda: waits(agent), 5, "it waits for new ones")
        desk.release(*in_hand)
        wait_until(lambda: bus.stats(test_topic)["done"] == 60, 10, "all ended")


def test_what_comes_after_an_agents_last_step_is_not_given_to_it(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its read blocks in the server until the server has closed its connection."""
    last_step = lane.Lane._release_own_rows
    late: list[str] = []

    async def then_one_comes(ending: lane.Lane) -> None:
        await last_step(ending)
        late.append(bus.enqueue_task(test_topic, "late"))

    monkeypatch.setattr(lane.Lane, "_release_own_rows", then_one_comes)
    with agents.running(test_topic, work.echo) as agent:
        wait_until(lambda: waits(agent), 5, "it waits for new ones")

    assert bus.get_task(late[0], test_topic).state == "waiting"


def test_a_lane_whose_work_all_broke_gives_back_what_it_holds(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    desk.one()

    async def breaks(_: lane.Lane) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(lane.Lane, "_sweep", breaks)

    async def story() -> BaseException | None:
        handler = Handler(test_topic, work.echo)
        one = lane.Lane(handler, GROUP, desk.consumer, 1, Quiet())
        await asyncio.wait([one.broken])
        await one.drain(lambda: False)
        return one.broken.exception()

    assert isinstance(asyncio.run(story()), ValueError)
    assert bus.get_task(task_id, test_topic).state == "waiting"
