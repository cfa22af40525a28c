"""A reader by hand gets what the server holds for it and it does not know of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bus
from bus import errors, ghosts, groups, scripts
from bus.conf import conf
from tests.support.processes import program
from tests.support.waiting import PATIENCE, wait_until

GROUP = "workers"
AGENT = """
import sys, time, bus
topic = sys.argv[1]
bus.register_agent("me", "by hand")
[(entry_id, fields)] = bus.read_group(topic, "workers", "me", block_ms=30_000)
print(fields["id"], fields["attempt"], fields["fence"].rpartition(".")[2], flush=True)
time.sleep(0 if "ends" in sys.argv else 600)
print(bus.ack(topic, "workers", entry_id), flush=True)
"""


def read(topic: str, count: int = 10, consumer: str = "me") -> dict[str, str]:
    """The fence of every task that one read gives, by its id."""
    rows = bus.read_group(topic, GROUP, consumer, count, block_ms=0)
    return {fields["id"]: fields["fence"] for _, fields in rows}


def hands_over(fence: str) -> int:
    return int(fence.rpartition(".")[2])


@pytest.fixture
def registered(test_topic: str) -> None:
    """A group, and a registration that nobody ends."""
    bus.create_consumer_group(test_topic, GROUP)
    bus.register_agent("me", "by hand", ttl_seconds=600)


@pytest.fixture
def lost_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and the reply of the next blocking read is lost."""
    real, due = groups._read_new, threading.Event()

    def losing(*args: Any) -> Any:
        reply = real(*args)
        if due.is_set():
            due.clear()
            raise errors.BusUnavailable("simulated: reply lost")
        return reply

    monkeypatch.setattr(groups, "_read_new", losing)
    return due.set


def test_an_agent_that_died_finds_its_task_when_it_is_started_again(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    with program(AGENT, test_topic) as first:
        assert first.stdout is not None
        assert first.stdout.readline().split() == [task_id, "1", "0"]
        first.kill()

    with program(AGENT, test_topic, "ends") as second:
        assert second.stdout is not None
        assert second.stdout.readline().split() == [task_id, "1", "1"]
        assert second.stdout.readline() == "1\n"

    assert bus.get_task(task_id, test_topic).state == "done"
    assert bus.stats(test_topic)["lost"] == 1


@pytest.mark.usefixtures("registered")
def test_a_name_never_registered_leaves_the_tasks_of_others_to_their_lease(
    test_topic: str,
) -> None:
    """Any number of processes may read under it."""
    bus.enqueue_task(test_topic, 1)
    assert read(test_topic, consumer="anybody")

    ghosts.forget()

    assert read(test_topic, consumer="anybody") == {}


@pytest.mark.usefixtures("registered")
def test_a_task_that_ends_every_process_of_its_agent_ends_as_poison(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    for n in range(conf.MAX_DELIVERIES):
        [fence] = read(test_topic).values()
        assert hands_over(fence) == n
        ghosts.forget()

    assert read(test_topic) == {}
    assert bus.get_dead(task_id, test_topic).error["type"] == "Poison"


@pytest.mark.usefixtures("registered")
def test_the_older_of_two_processes_holds_a_fence_that_is_outdated(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    older = read(test_topic)[task_id]

    ghosts.forget()
    younger = read(test_topic)[task_id]

    assert hands_over(younger) > hands_over(older)


@pytest.mark.usefixtures("registered")
def test_what_came_with_a_lost_reply_comes_with_the_next_read(
    test_topic: str, lost_read: Callable[[], None]
) -> None:
    lost_read()
    threading.Timer(0.1, bus.enqueue_task, (test_topic, 1)).start()
    with pytest.raises(errors.BusUnavailable):
        bus.read_group(test_topic, GROUP, "me", block_ms=int(9_000 * PATIENCE))

    [(_, fields)] = bus.read_group(test_topic, GROUP, "me", block_ms=0)

    assert (fields["payload"], fields["attempt"]) == (1, 1)
    assert bus.stats(test_topic)["lost"] == 0


@pytest.mark.usefixtures("registered")
def test_behind_an_error_a_name_that_many_use_takes_nothing_of_others(
    test_topic: str, lost_read: Callable[[], None]
) -> None:
    """What another process was given since then looks as what came with that reply."""
    lost_read()
    with pytest.raises(errors.BusUnavailable):
        bus.read_group(test_topic, GROUP, "anybody", block_ms=50)
    bus.enqueue_task(test_topic, 1)
    assert read(test_topic, consumer="anybody")
    ghosts.given.clear()  # as if that had been another process
    ghosts.reader(test_topic, GROUP, "anybody")._lost_since = 0.0

    assert read(test_topic, consumer="anybody") == {}


@pytest.mark.asyncio
@pytest.mark.usefixtures("registered")
async def test_the_twin_finds_it_as_well(
    test_topic: str, lost_read: Callable[[], None]
) -> None:
    lost_read()
    threading.Timer(0.1, bus.enqueue_task, (test_topic, 1)).start()
    with pytest.raises(errors.BusUnavailable):
        await bus.aread_group(test_topic, GROUP, "me", block_ms=int(9_000 * PATIENCE))

    rows = await bus.aread_group(test_topic, GROUP, "me", block_ms=0)

    assert [fields["payload"] for _, fields in rows] == [1]


@pytest.mark.usefixtures("registered")
def test_what_is_in_hand_does_not_come_again_behind_an_error(
    test_topic: str, lost_read: Callable[[], None]
) -> None:
    bus.enqueue_many(test_topic, range(3))
    in_hand = read(test_topic, 2)
    assert len(in_hand) == 2 and len(read(test_topic)) == 1
    lost_read()
    with pytest.raises(errors.BusUnavailable):
        bus.read_group(test_topic, GROUP, "me", block_ms=50)

    assert read(test_topic) == {}


@pytest.mark.usefixtures("registered")
def test_what_another_thread_is_about_to_be_told_of_is_not_lost(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(test_topic)
    task_id, real = bus.enqueue_task(test_topic, 1), scripts.run
    claimed, tell = threading.Event(), threading.Event()

    def slowly(name: str, *args: Any, **options: Any) -> Any:
        reply = real(name, *args, **options)
        if name == "claim" and not claimed.is_set():
            claimed.set()
            assert tell.wait(10 * PATIENCE)
        return reply

    monkeypatch.setattr(scripts, "run", slowly)
    found: list[dict[str, str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(read(test_topic)))
        for _ in range(2)
    ]
    threads[0].start()
    assert claimed.wait(10 * PATIENCE)
    ghosts.reader(test_topic, GROUP, "me")._lost_since = 0.0  # a third one failed
    threads[1].start()
    threads[1].join(0.2)
    tell.set()
    for thread in threads:
        thread.join(10 * PATIENCE)

    [given] = filter(None, found)
    assert [*given] == [task_id]


@pytest.mark.usefixtures("registered")
def test_a_usual_read_costs_no_more_than_its_claim(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(test_topic)
    bus.enqueue_task(test_topic, 1)
    real, verbs = scripts.run, []

    def noted(name: str, *args: Any, **options: Any) -> Any:
        verbs.append(name)
        return real(name, *args, **options)

    monkeypatch.setattr(scripts, "run", noted)
    assert len(read(test_topic)) == 1

    assert verbs == ["ensure_group", "claim"]


def test_readers_that_are_remembered_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ghosts.forget()
    monkeypatch.setattr(ghosts, "_READERS_MOST", 3)

    for n in range(5):
        ghosts.reader("t", GROUP, f"one-{n}")

        ghosts.reader("t", GROUP, "one-0")

    assert [who[2] for who in ghosts._readers] == ["one-3", "one-4", "one-0"]


def test_a_wait_in_a_forked_process_begins_anew(test_topic: str) -> None:
    """The threads that its parent's pool counts as idle are not there."""
    bus.create_consumer_group(test_topic, GROUP)
    with program(FORKS, test_topic) as parent:
        assert parent.stdout is not None
        wait_until(lambda: parent.poll() is not None, 30)
        assert parent.stdout.read() == "parent child "


FORKS = """
import asyncio, os, sys, bus
def read():
    reading = bus.aread_group(sys.argv[1], "workers", "me", block_ms=0)
    return asyncio.run(asyncio.wait_for(reading, 10))
read()
print("parent", end=" ", flush=True)
pid = os.fork()
if not pid:
    try:
        read()
        print("child", end=" ", flush=True)
    finally:
        os._exit(0)
os.waitpid(pid, 0)
"""
