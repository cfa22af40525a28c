"""What `explain` promises of the last task in a queue, and when it really starts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import bus
from bus import agents, messages
from bus.agent import Agent
from bus.handlers import Handler
from tests.support import agents as runtime
from tests.support.waiting import wait_until

_UNITS = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True)
class Promise:
    """One look at a task: what was said, how soon that is, how soon it was."""

    said: str
    promised_s: float
    took_s: float


def seconds_in(said: str) -> float | None:
    """The time a sentence promises; None if it promises none."""
    if "take it at once" in said:
        return 0.0
    found = re.search(
        r"(less than|about|more than) ((?:[\d.,]+ (?:s|min|h|d) ?)+)", said
    )
    if found is None:
        return None
    parts = re.findall(r"([\d.,]+) (s|min|h|d)", found[2])
    total = sum(float(number.replace(",", "")) * _UNITS[unit] for number, unit in parts)
    return total / 2 if found[1] == "less than" else total


def kept(
    promises: Sequence[Promise], factor: float = 3.0, slack_s: float = 2.0
) -> bool:
    """Whether all were right to a factor, give or take some seconds."""
    return bool(promises) and all(
        each.took_s <= factor * each.promised_s + slack_s
        and each.promised_s <= factor * each.took_s + slack_s
        for each in promises
    )


class Crowd:
    """Agents of the runtime with slots for each of some topics; the last one is asked.

    As a context manager it starts and ends them.
    """

    def __init__(
        self,
        topics: Sequence[str],
        function: Callable[..., Any],
        *,
        agents: int,
        slots: int,
    ) -> None:
        self._topics, self.topic = topics, topics[-1]
        self._function, self._count, self._slots = function, agents, slots
        self._stack = ExitStack()

    def __enter__(self) -> Crowd:
        for number in range(self._count):
            found = [Handler(topic, self._function) for topic in self._topics]
            agent = Agent(found, agent_id=f"one-{number}", concurrency=self._slots)
            self._stack.enter_context(runtime.serving(agent))
        wait_until(lambda: len(bus.list_agents()) == self._count, 20)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.close()

    def idle(self, seconds: float) -> None:
        """An idle spell, which is what is tested: nothing is waited for."""
        time.sleep(seconds)

    def drain(self, payloads: Sequence[Any], ask_after: int) -> list[Promise]:
        """Send the payloads, ask for the last task when so many are done, and a beat
        after that; then wait until all are done.
        """
        before = bus.stats(self.topic)["done"]
        last = bus.enqueue_many(self.topic, payloads)[-1]
        asked = []
        if ask_after:
            wait_until(lambda: self._done() >= before + ask_after, 60)
        else:
            # The first of them must have been taken, or no slot is busy.
            wait_until(lambda: bus.stats(self.topic)["running"] > 0, 20)
        for pause_s in (0.0, 0.9):
            time.sleep(pause_s)  # when it is asked is what is tested
            if bus.get_task(last).state == messages.WAITING:
                asked.append((agents.server_ms(), bus.explain(last, self.topic)))
        wait_until(lambda: self._done() >= before + len(payloads), 300)
        began = messages.iso_ms(bus.get_task(last, self.topic).started_at)
        assert began is not None
        return [
            Promise(said, promised, (began - at) / 1000)
            for at, said in asked
            if (promised := seconds_in(said)) is not None
        ]

    def _done(self) -> int:
        return int(bus.stats(self.topic)["done"])
