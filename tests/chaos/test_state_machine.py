"""Every verb in every order, against a model in Python and the invariants of the data.

Hypothesis makes up the schedules and shrinks the one that fails. `MESH_CHAOS_RUNS` asks
for more of them than the few that a test run can afford.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pytest_django import Settings

import bus
from bus import auditor, errors, janitor, keys, looks, purges, tasks
from bus.conf import conf
from bus.deliveries import Delivery
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds

pytestmark = pytest.mark.chaos

RUNS = int(os.environ.get("MESH_CHAOS_RUNS", "25"))
WALKS = int(os.environ.get("MESH_CHAOS_WALKS", "12"))
STEPS = 60
TASKS = 5  # few, so that each goes a long way
WHICH = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 4])  # mostly the latest
DESK = st.integers(0, 1)
OWN = st.sampled_from([True, True, True, False])
NUMBER = st.integers(-99, 99)
LIVE = {"waiting", "delayed", "running"}


@dataclass
class Known:
    """What the model believes of one task."""

    payload: Any
    state: str
    epoch: int = 0
    attempt: int = 0  # failed attempts of this epoch
    lost: int = 0
    holder: int | None = None  # the desk that runs it
    fence: str = ""  # of the delivery that runs it
    cancel: bool = False
    comparable: bool = True  # whether the mesh still knows the payload as sent
    past: int = 0  # failed attempts, lost leases and replays of all epochs
    originals: list[Any] = field(default_factory=list)  # what edits replaced
    request: str = ""  # of the last replay
    edit: int | None = None  # with which payload it was asked for
    fences: list[str] = field(default_factory=list)  # every one that was issued


class Mesh(RuleBasedStateMachine):
    """One topic, three consumers, one operator."""

    client: redis.Redis  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.topic = f"model-{uuid.uuid4().hex[:12]}"
        self.loop = asyncio.new_event_loop()
        self.desks = [Desk(self.topic, f"d{n}#00000001", self.loop) for n in range(2)]
        self.model: dict[str, Known] = {}
        self.foreign: dict[str, Any] = {}  # by derived id, until somebody reads them
        self.sids: dict[str, str] = {}  # the entries of foreign tasks
        self.forged: set[str] = set()  # entries nobody may ever be given
        self.hands: list[tuple[int, Delivery]] = []  # every delivery ever given
        self.paused = False
        self.discards = self.undos = 0  # ever

    def teardown(self) -> None:
        for desk in self.desks:
            desk.close()
        self.loop.close()
        # 25 topics of data would slow the next ones' look at all topics.
        self.client.flushall()

    # --- senders

    @precondition(lambda self: len(self.model) < TASKS)
    @rule(payload=NUMBER, later=st.booleans())
    def enqueue(self, payload: int, later: bool) -> None:
        delay_s = 3_600 if later else None
        task_id = bus.enqueue_task(self.topic, payload, delay_s=delay_s)
        self.model[task_id] = Known(payload, "delayed" if later else "waiting")

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def send_again(self, which: int) -> None:
        task_id, known = self._pick(which, self.model)
        assert tasks.enqueue_task(self.topic, known.payload, task_id=task_id) == task_id

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def send_something_else_under_a_taken_id(self, which: int) -> None:
        task_id, known = self._pick(which, self.model)
        if known.comparable:
            with pytest.raises(errors.TaskConflict):
                bus.enqueue_task(self.topic, ["other", known.payload], task_id=task_id)

    @precondition(lambda self: len(self.foreign) < 2)
    @rule(payload=NUMBER, odd=st.booleans())
    def somebody_writes_to_the_stream(self, payload: int, odd: bool) -> None:
        fields: Any = {"json": str(payload)}
        if odd:  # our shape, with a meta that is none of ours
            fields = {"id": "x", **fields, "meta": "junk"}
        sid = str(self.client.xadd(bus.task_stream(self.topic), fields))
        self.foreign[keys.foreign_id(self.topic, sid)] = payload
        self.sids[keys.foreign_id(self.topic, sid)] = sid

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def somebody_forges_an_entry(self, which: int) -> None:
        task_id, known = self._pick(which, self.model)
        forged = {"id": task_id, "json": '"forged"', "meta": ""}
        self.forged.add(str(self.client.xadd(bus.task_stream(self.topic), forged)))  # type: ignore[arg-type]

    # --- agents

    @rule(desk=DESK, want=st.integers(1, 5))
    def claim(self, desk: int, want: int) -> None:
        for item in self.desks[desk].claim(want):
            assert not self.paused
            assert self._known(item).lost < conf.SUSPECT_AFTER
            self._given(desk, item)

    @rule(desk=DESK)
    def claim_a_suspect(self, desk: int) -> None:
        items = self.desks[desk].claim(alone=True)
        assert len(items) <= 1
        for item in items:
            assert self._known(item).lost >= conf.SUSPECT_AFTER
            self._given(desk, item)

    @precondition(lambda self: self.hands)
    @rule(which=WHICH, own=OWN)
    def complete(self, which: int, own: bool) -> None:
        item, desk, mine = self._hand(which, own)
        [outcome] = desk.complete(item)
        assert (outcome == "ok") == mine
        if mine:
            self._end(item.id, "done")

    @precondition(lambda self: self.hands)
    @rule(which=WHICH, own=OWN, final=st.booleans())
    def fail(self, which: int, own: bool, final: bool) -> None:
        item, desk, mine = self._hand(which, own)
        outcome = desk.fail(item, final=final, max_attempts=3)
        assert (outcome in {"delayed", "dead", "cancelled"}) == mine
        if not mine:
            return
        known = self.model[item.id]
        known.attempt += 1
        known.past += 1
        if known.cancel:
            self._end(item.id, "cancelled")
        elif final or known.attempt >= 3:
            self._end(item.id, "dead")
        else:
            known.state, known.holder = "delayed", None
        assert outcome == known.state

    @precondition(lambda self: self.hands)
    @rule(which=WHICH, own=OWN)
    def release(self, which: int, own: bool) -> None:
        item, desk, mine = self._hand(which, own)
        assert desk.release(item) == int(mine)
        if mine:
            self._handed_over(item.id)

    @precondition(lambda self: self.hands)
    @rule(which=WHICH, own=OWN)
    def beat(self, which: int, own: bool) -> None:
        item, desk, mine = self._hand(which, own)
        answer = desk.beat(item)
        assert (not answer.fenced) == mine
        assert answer.paused == self.paused
        assert bool(answer.cancelled) == (mine and self.model[item.id].cancel)

    @precondition(lambda self: self.hands)
    @rule(which=WHICH)
    def speak_for_a_delivery_that_is_over(self, which: int) -> None:
        over = [
            (desk, item)
            for desk, item in self.hands
            if (self.model[item.id].state, self.model[item.id].fence)
            != ("running", item.fence)
        ]
        if over:
            at, item = over[-1 - which % len(over)]
            desk = self.desks[at]
            assert desk.beat(item).fenced
            assert desk.release(item) == 0
            assert desk.fail(item) in {"fenced", "gone"}
            assert desk.complete(item) != ["ok"]

    @rule(desk=DESK)
    def die(self, desk: int) -> None:
        self.desks[desk].lose()
        for task_id, known in self.model.items():
            if known.holder == desk:
                known.lost += 1
                known.past += 1
                if not known.cancel and known.lost >= conf.MAX_DELIVERIES:
                    self._end(task_id, "dead")
                else:
                    self._handed_over(task_id)

    @precondition(lambda self: self.hands)
    @rule(which=WHICH)
    def ack_by_hand(self, which: int) -> None:
        _, item = self.hands[-1 - which % len(self.hands)]
        pending = self._in_stay(item)
        assert bus.ack(self.topic, GROUP, item.sid) == int(pending)
        if pending:
            self._end(item.id, "done")
            self.model[item.id].comparable = False

    @precondition(lambda self: self.hands)
    @rule(which=WHICH)
    def move_to_dead_by_hand(self, which: int) -> None:
        _, item = self.hands[-1 - which % len(self.hands)]
        if self._in_stay(item):
            known = self.model[item.id]
            known.past += 1
            letter = bus.move_to_dead(self.topic, item.sid, {"moved": item.id})
            assert (letter == "") == known.cancel
            self._end(item.id, "cancelled" if known.cancel else "dead")
            if letter:
                known.payload, known.comparable = {"moved": item.id}, False

    # --- operators and the clock

    @rule()
    def time_passes(self) -> None:
        delayed = keys.named("delayed", self.topic)
        for task_id in self.client.zrange(delayed, 0, -1):  # type: ignore[union-attr]
            self.client.zadd(delayed, {task_id: 1})
        looks.promote(self.topic)
        janitor.trim(self.topic)
        for known in self.model.values():
            if known.state == "delayed":
                known.state = "waiting"

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        task_id, known = self._pick(which, self.model)
        if known.state in LIVE:
            said = bus.cancel(task_id, self.topic)
            if known.state == "running":
                known.cancel = True
                assert said == "running"
            else:
                assert said == "cancelled"
                self._end(task_id, "cancelled")
        elif known.state == "cancelled":
            assert bus.cancel(task_id, self.topic) == "cancelled"
        else:
            with pytest.raises(errors.NotCancellable):
                bus.cancel(task_id, self.topic)

    @rule()
    def pause(self) -> None:
        bus.pause(self.topic)
        self.paused = True

    @rule()
    def resume(self) -> None:
        bus.resume(self.topic)
        self.paused = False

    @precondition(lambda self: self.model)
    @rule(which=WHICH, edited=st.one_of(st.none(), NUMBER), fit=OWN)
    def replay(self, which: int, edited: int | None, fit: bool) -> None:
        task_id, known = self._pick(which, self.model, "dead" if fit else None)
        if known.state != "dead":
            with pytest.raises(errors.NotDead):
                bus.replay(task_id, self.topic)
            return
        known.request, known.edit = f"{task_id} {known.epoch}", edited
        if edited is None:
            bus.replay(task_id, self.topic, request_id=known.request)
        else:
            if edited != known.payload:
                known.originals.append(known.payload)
            bus.replay(task_id, self.topic, payload=edited, request_id=known.request)
            known.payload = edited
        known.state, known.epoch = "waiting", known.epoch + 1
        known.attempt = known.lost = 0
        known.past += 1
        known.comparable = True

    @precondition(lambda self: self.model)
    @rule(which=WHICH, fit=OWN)
    def click_replay_again(self, which: int, fit: bool) -> None:
        task_id, known = self._pick(which, self.model, "dead" if fit else None)
        if known.request and self._on_record(known):
            edit = {} if known.edit is None else {"payload": known.edit}
            bus.replay(task_id, self.topic, request_id=known.request, **edit)
            with pytest.raises(errors.TaskConflict):
                other = {"payload": "another"}
                bus.replay(task_id, self.topic, request_id=known.request, **other)

    @precondition(lambda self: self.model)
    @rule(which=WHICH, fit=OWN)
    def discard(self, which: int, fit: bool) -> None:
        task_id, known = self._pick(which, self.model, "dead" if fit else None)
        if known.state == "dead":
            bus.discard(task_id, self.topic)
            known.state = "discarded"
            self.discards += 1
        else:
            with pytest.raises(errors.NotDead):
                bus.discard(task_id, self.topic)

    @rule(what=st.sampled_from(purges.WHAT))
    def purge(self, what: str) -> None:
        bus.purge_topic(self.topic, what)
        while self.foreign and what != "dead":
            task_id, payload = self.foreign.popitem()
            self.model[task_id] = Known(payload, "waiting")
        for task_id, known in self.model.items():
            if known.state in {"waiting", "delayed"} and what != "dead":
                self._end(task_id, "cancelled")
            elif known.state == "running" and what == "all":
                known.cancel = True
            elif known.state == "dead" and what != "waiting":
                self._end(task_id, "discarded")
                self.discards += 1

    @rule()
    def the_audit_finds_only_what_was_forged(self) -> None:
        found = auditor.audit(self.topic)
        assert (found.seen, found.drift) == ([], 0)
        assert len(found.mended) <= len(self.forged)
        assert all(what.startswith("entry ") for what in found.mended)

    @precondition(lambda self: self.model)
    @rule(which=WHICH, fit=OWN)
    def undo(self, which: int, fit: bool) -> None:
        task_id, known = self._pick(which, self.model, "discarded" if fit else None)
        if known.state == "discarded":
            bus.undo(task_id, self.topic)
            known.state = "dead"
            self.undos += 1
        else:
            with pytest.raises(errors.DeadLetterNotFound):
                bus.undo(task_id, self.topic)

    # --- what must hold after each step

    @invariant()
    def the_data_is_whole(self) -> None:
        found = wounds(self.client, self.topic)
        mine = [one for one in found if not any(sid in one for sid in self.forged)]
        assert mine == []

    @invariant()
    def every_task_stands_where_the_model_says(self) -> None:
        for task_id, known in self.model.items():
            task = bus.get_task(task_id, self.topic)
            assert (task.state, task.ended) == (known.state, known.state not in LIVE)
            if known.comparable:
                assert task.payload == known.payload
            if self._on_record(known):
                assert task.epoch == known.epoch
                assert len(task.attempts) + len(task.replays) == known.past
                edits = [each for each in task.replays if each["edited"]]
                assert [each["payload"] for each in edits] == known.originals

    @invariant()
    def what_others_wrote_waits_until_it_is_read(self) -> None:
        stream = bus.task_stream(self.topic)
        for task_id in self.foreign:
            assert self.client.xrange(stream, self.sids[task_id], self.sids[task_id])

    @invariant()
    def discards_and_undos_are_counted(self) -> None:
        stats = bus.stats(self.topic)
        assert stats["restored"] == self.undos
        assert stats["discarded"] == self.discards - self.undos

    # --- the model's own moves

    def _on_record(self, known: Known) -> bool:
        """Whether its history is known: acks by hand leave none, the newest 50 stay."""
        return (known.comparable or known.state != "done") and known.past < 50

    def _pick(
        self, which: int, known: dict[str, Known], state: str | None = None
    ) -> tuple[str, Known]:
        """A task, of this state if there is one."""
        items = list(known.items())
        items = [each for each in items if each[1].state == state] or items
        return items[-1 - which % len(items)]

    def _known(self, item: Delivery) -> Known:
        if item.id in self.foreign:
            self.model[item.id] = Known(self.foreign.pop(item.id), "waiting")
        return self.model[item.id]

    def _given(self, desk: int, item: Delivery) -> None:
        known = self._known(item)
        assert known.state == "waiting" and item.sid not in self.forged
        assert (item.record.attempt, item.record.epoch) == (known.attempt, known.epoch)
        assert item.fence not in known.fences
        known.fences.append(item.fence)
        known.state, known.holder, known.fence = "running", desk, item.fence
        self.hands.append((desk, item))

    def _hand(self, which: int, own: bool) -> tuple[Delivery, Desk, bool]:
        """A delivery of late, whoever speaks for it, and whether that one still may."""
        given_to, item = self.hands[-1 - which % len(self.hands)]
        desk = given_to if own else 1 - given_to
        known = self.model[item.id]
        mine = known.state == "running" and known.holder == desk
        return item, self.desks[desk], mine and known.fence == item.fence

    def _in_stay(self, item: Delivery) -> bool:
        """Whether the entry of this delivery is still in the pending list."""
        known = self.model[item.id]
        return (
            known.state in {"running", "waiting"}
            and bool(known.fences)
            and known.fences[-1].partition(".")[0] == item.sid
            and not self._returned(item)
        )

    def _returned(self, item: Delivery) -> bool:
        """Whether the task came back under a new entry since (a retry, a replay)."""
        now = self.client.hget(keys.named("tasks", self.topic), item.id)
        return not str(now).startswith(f"{item.sid}|")

    def _handed_over(self, task_id: str) -> None:
        known = self.model[task_id]
        if known.cancel:
            self._end(task_id, "cancelled")
        else:
            known.state, known.holder = "waiting", None

    def _end(self, task_id: str, state: str) -> None:
        known = self.model[task_id]
        known.state, known.holder, known.cancel = state, None, False


@pytest.fixture
def poison_comes_soon(settings: Settings) -> None:
    """Five lost leases are more than a short schedule gets to."""
    settings.MESH_SUSPECT_AFTER = 1
    settings.MESH_MAX_DELIVERIES = 3


# How often a walk takes each rule: what carries a task on is taken more often.
WEIGHTS = {
    "enqueue": 3,
    "send_again": 1,
    "send_something_else_under_a_taken_id": 1,
    "somebody_writes_to_the_stream": 1,
    "somebody_forges_an_entry": 1,
    "claim": 8,
    "claim_a_suspect": 6,
    "complete": 2,
    "fail": 6,
    "release": 2,
    "beat": 1,
    "speak_for_a_delivery_that_is_over": 3,
    "die": 3,
    "ack_by_hand": 1,
    "move_to_dead_by_hand": 1,
    "time_passes": 4,
    "cancel": 2,
    "pause": 1,
    "resume": 3,
    "replay": 2,
    "click_replay_again": 2,
    "discard": 2,
    "undo": 2,
    "purge": 1,
    "the_audit_finds_only_what_was_forged": 1,
}


def walk(
    client: redis.Redis,
    seed: int,
    steps: int = 150,
    judge: Callable[[str], None] | None = None,
) -> None:
    """One random schedule, the same for the same seed; what fails is raised.

    `judge` is given the topic before its data is thrown away, also when it failed.
    """
    Mesh.client = client
    dice, mesh = random.Random(seed), Mesh()
    draws: dict[str, Any] = {
        "payload": lambda: dice.randint(-99, 99),
        "later": lambda: dice.random() < 0.3,
        "which": lambda: min(int(dice.expovariate(0.7)), 9),
        "own": lambda: dice.random() < 0.85,
        "fit": lambda: dice.random() < 0.8,
        "final": lambda: dice.random() < 0.25,
        "desk": lambda: dice.randrange(2),
        "want": lambda: dice.randint(1, 5),
        "odd": lambda: dice.random() < 0.3,
        "edited": lambda: dice.choice([None, 5]),
        "what": lambda: dice.choice(purges.WHAT),
    }
    rules = {each.function.__name__: each for each in mesh.rules}
    assert set(rules) == set(WEIGHTS)
    try:
        for _ in range(steps):
            [name] = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
            chosen = rules[name]
            if all(allowed(mesh) for allowed in chosen.preconditions):
                chosen.function(mesh, **{arg: draws[arg]() for arg in chosen.arguments})
                mesh.the_data_is_whole()
                mesh.every_task_stands_where_the_model_says()
                mesh.what_others_wrote_waits_until_it_is_read()
                mesh.discards_and_undos_are_counted()
    finally:
        try:
            if judge is not None:
                judge(mesh.topic)
        finally:
            mesh.teardown()


@pytest.mark.parametrize("seed", range(WALKS))
@pytest.mark.usefixtures("poison_comes_soon")
def test_no_long_walk_breaks_the_state_machine(
    redis_client: redis.Redis, seed: int
) -> None:
    walk(redis_client, seed)


@pytest.mark.usefixtures("poison_comes_soon")
def test_no_schedule_breaks_the_state_machine(redis_client: redis.Redis) -> None:
    Mesh.client = redis_client
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Mesh,
        settings=hypothesis_settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
