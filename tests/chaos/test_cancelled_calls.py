"""S12: asyncio calls cancelled at any moment never shift answers, connections or files.

A client that goes on with a connection on which an answer is outstanding gives the next
caller what belongs to somebody else (CVE-2023-28858 and 28859 of redis-py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import connection, tasks
from tests.support import agents, chronicle
from tests.support.keyspace import wounds
from tests.support.resp_proxy import RespProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SUITE = "S12 cancelled calls"
CANCELS = int(os.environ.get("MESH_CHAOS_CANCELS", "200"))
AT_ONCE = 20
LATEST_S = 0.02  # answers take about half of that: some are cancelled, some come


async def echo(payload: Any, task: bus.Task) -> Any:
    return payload


def _sockets() -> int:
    """Sockets of this process but for shared ones, which the agent beside opens again
    at any time. Other files are the server's, which is synced from here."""
    connection.reset()
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(each))
    return sum(link.startswith("socket:") for link in links)


class Caller:
    """Calls of all kinds that know which answer is theirs."""

    def __init__(self, topic: str, dice: random.Random) -> None:
        self.topic, self.dice = topic, dice
        self.sent: dict[str, int] = {}  # every task that may exist
        self.sure: list[str] = []  # those whose answer came
        self.strange: list[str] = []
        self.told: Counter[str] = Counter()
        self.wire: Any = None  # made on the loop

    def any_call(self) -> Coroutine[Any, Any, None]:
        kinds: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.enqueue,
            self.enqueue,
            self.wait,
            self.look,
            self.ask,
            self.pipe,
            self.share,
        ]
        return self.dice.choice(kinds)()

    async def enqueue(self) -> None:
        task_id, number = tasks.new_id(), self.dice.randrange(10**9)
        self.sent[task_id] = number
        said = await bus.aenqueue_task(self.topic, number, task_id=task_id)
        self._same(said, task_id)
        self.sure.append(task_id)

    async def wait(self) -> None:
        task_id = self.dice.choice(self.sure)
        task = await bus.await_result(task_id, self.topic, 20)
        want = (task_id, "done", self.sent[task_id])
        self._same((task.id, task.state, task.result), want)

    async def look(self) -> None:
        task_id = self.dice.choice(self.sure)
        task = await bus.aget_task(task_id, self.topic)
        self._same((task.id, task.payload), (task_id, self.sent[task_id]))

    async def ask(self) -> None:
        """The plainest of questions, to which the server gives back our own word."""
        word = f"word-{self.dice.random()}"
        client: Any = bus.get_redis_async()
        self._same(await client.execute_command("ECHO", word), word)

    async def pipe(self) -> None:
        words = [f"{n}-{self.dice.random()}" for n in range(5)]
        pipe = bus.get_redis_async().pipeline(transaction=False)
        for word in words:
            pipe.execute_command("ECHO", word)
        self._same(await pipe.execute(), words)

    async def share(self) -> None:
        """The agents' own connection, on which all calls wait in one line."""
        word = f"wire-{self.dice.random()}"
        self._same(await self.wire.execute_command("ECHO", word), word)

    def _same(self, said: Any, wanted: Any) -> None:
        if said != wanted:
            self.strange.append(f"{wanted!r} was asked for, {said!r} came")

    async def cancelled(self) -> None:
        """A call that is cancelled after a while, if it is still under way then."""
        call = asyncio.create_task(self.any_call())
        await asyncio.sleep(self.dice.uniform(0, LATEST_S))
        self.told["cancelled" if call.cancel() else "answered"] += 1
        with contextlib.suppress(asyncio.CancelledError):
            await call


async def _attack(caller: Caller) -> None:
    """Cancels, each with two follow-ups."""
    for _ in range(AT_ONCE):
        await caller.enqueue()
    mine = asyncio.all_tasks()
    caller.wire = connection.adedicated()
    while caller.told["cancelled"] < CANCELS:
        await asyncio.gather(*(caller.cancelled() for _ in range(AT_ONCE)))
        await asyncio.gather(*(caller.any_call() for _ in range(2 * AT_ONCE)))
    # What they wait with is shared: one reader of the loop, however many there were.
    left = {task.get_name() for task in asyncio.all_tasks() - mine}
    assert left <= {"mesh-feed"}
    clients = list(connection._async[asyncio.get_running_loop()].values())
    busy = [client.connection_pool._in_use_connections for client in clients]
    assert busy == [set()] * len(clients)
    for client in clients:
        await client.aclose()
    await caller.wire.aclose()


@pytest.mark.timeout(200)
def test_no_answer_ever_belongs_to_another_call(
    test_topic: str,
    redis_client: redis.Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = random.Random(chronicle.seed())
    caller = Caller(test_topic, dice)
    late = random.Random(chronicle.seed() + 1)

    with agents.running(test_topic, echo):
        first = bus.enqueue_task(test_topic, 0)
        bus.wait_result(first, test_topic, 10)
        before = _sockets()
        with RespProxy(redis_url, delay_s=lambda: late.uniform(0, 0.01)) as proxy:
            monkeypatch.setenv("REDIS_URL", proxy.url)
            asyncio.run(_attack(caller))
            connection.reset()
        monkeypatch.setenv("REDIS_URL", redis_url)
        wait_until(lambda: _sockets() <= before, 5, "all sockets are closed")
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 20, "all have ended")

    assert caller.strange == []
    assert caller.told["answered"] > CANCELS / 20  # late enough for some to be whole
    done = {row["id"] for _, row in bus.tail_results(test_topic, 10_000)}
    assert set(caller.sure) <= done <= {first, *caller.sent}
    assert wounds(redis_client, test_topic) == []
    chronicle.record(
        SUITE,
        faults={"call cancelled": caller.told["cancelled"]},
        tasks=len(done),
        executions=len(done),
        lost=0,
        double=0,
    )
