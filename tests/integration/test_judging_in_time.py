"""The dead are found out when their registration ends, not a tick or two later."""

from __future__ import annotations

import math
import time

import pytest

import bus
from bus import agents, janitor
from bus.judge import Judge
from tests.support.desk import Desk
from tests.support.waiting import wait_until


def holder(topic: str, expires_in_s: float) -> None:
    """An agent with a task in hand, whose registration ends then."""
    agents.register("holder", "holder#1", expires_in_s, {"topics": [topic]})
    bus.enqueue_task(topic, 1)
    assert Desk(topic, "holder#1").claim(1)


@pytest.mark.parametrize(
    ("expires_in_s", "least", "most"),
    [(1.0, 0.0, 1.1), (3.0, math.inf, math.inf)],
    ids=["it missed a beat", "it beats"],
)
def test_a_judge_comes_again_when_a_registration_ends(
    test_topic: str, expires_in_s: float, least: float, most: float
) -> None:
    holder(test_topic, expires_in_s)
    judge = Judge("me#1")

    judge.reclaim(test_topic)

    assert least <= judge.again_s <= most


@pytest.mark.usefixtures("test_topic")
def test_no_tick_is_missed_for_a_wait_that_ends_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tick may be due after 1.1 s, and the waits between last 1 s at most."""
    ticks: list[float] = []

    def tick(*_: object) -> float:
        ticks.append(time.monotonic())
        return math.inf

    monkeypatch.setattr(janitor.random, "uniform", lambda *_: 1.1)
    monkeypatch.setattr(janitor.Janitor, "_tick", tick)
    thread = janitor.Janitor("me#1", lambda: 60.0)
    thread.start()
    try:
        wait_until(lambda: len(ticks) >= 4, 15, "it ticks")
    finally:
        thread.close()
        thread.join(5)

    gaps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert min(gaps) < 1.6
