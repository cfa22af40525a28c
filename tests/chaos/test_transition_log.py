"""Every transition is one that the state diagram allows, in the order it happened."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

import bus
from bus import keys, verbs
from tests.chaos.test_mutants import MUTANTS
from tests.chaos.test_state_machine import poison_comes_soon, walk
from tests.support import chronicle, transitions

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures(poison_comes_soon.__name__)]

# Each is a second or two; `make chaos` walks thirty.
WALKS = max(6, min(30, int(os.environ.get("MESH_CHAOS_WALKS", "12")) // 2))


@pytest.fixture(autouse=True)
def transition_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with transitions.logged(monkeypatch):
        yield


def test_every_transition_of_a_walk_is_an_edge_of_the_diagram(
    redis_client: redis.Redis,
) -> None:
    taken: set[tuple[str, str, str]] = set()

    def judge(topic: str) -> None:
        assert transitions.faults(redis_client, topic) == []
        taken.update(transitions.moves(redis_client, topic))

    for number in range(WALKS):
        walk(redis_client, chronicle.seed() + number, 250, judge)

    # What walks this long do not come across would be checked in vain.
    usual = {
        (verb, *edge) for verb, edges in transitions.EDGES.items() for edge in edges
    } - transitions.RARE
    assert len(taken & usual) > 0.6 * len(usual)


def test_a_send_that_meets_a_new_minute_moves_its_task_once(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """It takes its entry back and leaves it to `enqueue`."""
    bus.enqueue_task(test_topic, 1)
    redis_client.hset(keys.named("minutes", test_topic), "last", 1)

    bus.enqueue_task(test_topic, 2)

    steps = transitions.steps(redis_client, test_topic)
    assert [step.verb for step in steps] == ["enqueue", "send", "enqueue"]
    assert transitions.faults(redis_client, test_topic) == []
    assert transitions.moves(redis_client, test_topic).total() == 2


# Those whose mistake is one of moves or counts; the others are for the data's checker.
TOLD = (
    "ack: the record stays",
    "cancel: the due time stays",
    "complete: nothing is counted",
    "complete: the record stays",
    "enqueue: nothing is counted",
    "fail: attempts are not counted",
    "move_to_dead: the record stays",
    "promote: the entry is not named in the record",
    "reclaim: lost leases are not counted",
    "release: the fence does not grow",
    "replay: the epoch stands still",
)


@pytest.mark.parametrize("name", TOLD)
def test_the_log_gives_a_broken_script_away(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Proof that the check sees, without any look at the data itself."""
    verb, old, new = MUTANTS[name]
    script = verbs.SCRIPTS[verb]
    assert old in script.text, "the script has changed: bring the mutant along"
    text = script.text.replace(old, new)
    sha = hashlib.sha1(text.encode()).hexdigest()
    monkeypatch.setitem(verbs.SCRIPTS, verb, replace(script, text=text, sha=sha))
    said: list[str] = []

    def judge(topic: str) -> None:
        said.extend(transitions.faults(redis_client, topic))

    for seed in range(20):
        # The model may stumble over the mutant first; the log has it all the same.
        with contextlib.suppress(Exception, pytest.fail.Exception):
            walk(redis_client, seed, judge=judge)
        if said:
            break

    assert said
