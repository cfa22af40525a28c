"""Every state meets every verb: the tables of docs/states.md are what happens.

The guide is the expectation. A row is walked cell by cell, each on a topic of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import errors, keys, looks
from bus.deliveries import Delivery
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "states.md"
PAYLOAD = {"v": 1}


@dataclass
class Case:
    """One task that was brought into a state, with the last delivery of it."""

    client: redis.Redis
    topic: str
    desk: Desk
    task_id: str = ""
    held: Delivery | None = None

    def state(self) -> str:
        try:
            return bus.get_task(self.task_id, self.topic).state
        except errors.TaskNotFound:
            return "unknown"

    def send(self, delay_s: float | None = None) -> None:
        self.task_id = bus.enqueue_task(self.topic, PAYLOAD, delay_s=delay_s)

    def write_by_hand(self) -> None:
        stream = bus.task_stream(self.topic)
        sid = self.client.xadd(stream, {"json": '{"v":1}'})
        self.task_id = keys.foreign_id(self.topic, str(sid))

    def take(self, *, alone: bool = False) -> Delivery:
        [self.held] = self.desk.claim(alone=alone)
        return self.held

    def die(self) -> None:
        self.desk.fail(self.take(), final=True)

    def time_passes(self) -> None:
        delayed = keys.named("delayed", self.topic)
        self.client.zadd(delayed, {self.task_id: 1}, xx=True)
        looks.promote(self.topic)


def suspect(case: Case) -> None:
    case.send()
    for _ in range(2):
        case.take()
        case.desk.lose()


def steps(*calls: Callable[[Case], Any]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        for call in calls:
            call(case)

    return run


def by_id(verb: Callable[[str, str], Any]) -> Callable[[Case], Any]:
    return lambda case: verb(case.task_id, case.topic)


def of_agent(
    call: Callable[[Desk, Delivery], Any],
) -> Callable[[Case], str | int | None]:
    """A verb of whoever was given the task last; None where nobody was."""
    return lambda case: None if case.held is None else call(case.desk, case.held)


SEND, TAKE, DIE = Case.send, Case.take, Case.die
CANCEL, REPLAY = by_id(bus.cancel), by_id(bus.replay)
DISCARD, UNDO = by_id(bus.discard), by_id(bus.undo)
COMPLETE = of_agent(lambda desk, held: desk.complete(held)[0])
FAIL = of_agent(lambda desk, held: desk.fail(held))
RELEASE = of_agent(lambda desk, held: "ok" if desk.release(held) else "fenced")

STATES: dict[str, Callable[[Case], None]] = {
    "waiting": steps(SEND),
    "handed over": steps(SEND, TAKE, RELEASE),
    "suspect": suspect,
    "scheduled": steps(lambda case: case.send(3_600)),
    "retrying": steps(SEND, TAKE, FAIL),
    "running": steps(SEND, TAKE),
    "running, cancel asked for": steps(SEND, TAKE, CANCEL),
    "dead": steps(SEND, DIE),
    "dead, undone": steps(SEND, DIE, DISCARD, UNDO),
    "replayed": steps(SEND, DIE, REPLAY),
    "done": steps(SEND, TAKE, COMPLETE),
    "cancelled": steps(SEND, CANCEL),
    "cancelled while it ran": steps(SEND, TAKE, CANCEL, RELEASE),
    "discarded": steps(SEND, DIE, DISCARD),
    "by hand, unread": steps(Case.write_by_hand),
    "by hand, retrying": steps(Case.write_by_hand, TAKE, FAIL),
    "unknown": lambda case: setattr(case, "task_id", keys.foreign_id("x", "1-1")),
}


SENDERS: dict[str, Callable[[Case], Any]] = {
    "send it again": lambda case: (
        bus.enqueue_task(case.topic, PAYLOAD, task_id=case.task_id) and "same"
    ),
    "send another payload": lambda case: bus.enqueue_task(
        case.topic, {"v": 2}, task_id=case.task_id
    ),
    "cancel": lambda case: "asked" if CANCEL(case) == "running" else "same",
    "replay": REPLAY,
    "discard": DISCARD,
    "undo": UNDO,
    "run now": lambda case: (
        "same" if bus.run_now(case.task_id, case.topic) == case.task_id else "again"
    ),
}
AGENTS: dict[str, Callable[[Case], Any]] = {
    "is claimed": lambda case: "given" if case.desk.claim() else "not given",
    "complete": COMPLETE,
    "fail": FAIL,
    "release": RELEASE,
    "the agent dies": of_agent(lambda desk, held: desk.lose() or None),
    "`ack`": of_agent(lambda desk, held: bus.ack(desk.topic, GROUP, held.sid)),
    "its time comes": Case.time_passes,
}


def observed(case: Case, verb: Callable[[Case], Any]) -> str:
    """What a verb comes to, in the words of the guide."""
    before = case.state()
    try:
        answer = verb(case)
    except errors.BusError as exc:
        assert case.state() == before, "what is refused changes nothing"
        return f"`{exc.code}`"
    after = case.state()
    if after != before:
        return f"**{after}**"
    return "–" if answer is None else str(answer)


def table(title: str) -> dict[str, dict[str, str]]:
    """A table of the guide: state -> verb -> what happens."""
    text = GUIDE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("title", "verbs"),
    [("Senders and operators", SENDERS), ("Agents and time", AGENTS)],
    ids=["operators", "agents"],
)
def test_what_a_verb_comes_to_in_a_state(
    test_topic: str,
    redis_client: redis.Redis,
    state: str,
    title: str,
    verbs: dict[str, Callable[[Case], Any]],
) -> None:
    found, broken = {}, {}
    for at, (name, verb) in enumerate(verbs.items()):
        topic = f"{test_topic}-{at}"
        case = Case(redis_client, topic, Desk(topic))
        STATES[state](case)
        found[name] = observed(case, verb)
        if wrong := wounds(redis_client, topic):
            broken[name] = wrong

    assert found == table(title)[state]
    assert broken == {}


def test_the_guide_has_a_row_for_every_state() -> None:
    for title in ("Senders and operators", "Agents and time"):
        assert list(table(title)) == list(STATES)
