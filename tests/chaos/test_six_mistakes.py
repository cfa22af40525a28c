"""Six mistakes that queues on Redis make, each made here, and each noticed at once.

`test_mutants.py` breaks one statement at a time and lets random walks find it. These
are mistakes of design, as seen in the wild, in the words of this data model; each has
the one scenario that it cannot stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, keys, looks, tasks, verbs
from tests.support import chronicle
from tests.support.desk import Desk
from tests.support.keyspace import wounds

pytestmark = pytest.mark.chaos


@dataclass(frozen=True)
class Mistake:
    """A verb, what its text becomes, and a scenario that passes only without it."""

    verb: str
    broken: Callable[[str], str]
    scenario: Callable[[redis.Redis, str], None]


def swap(old: str, new: str) -> Callable[[str], str]:
    """Put something else into a script; it must be there."""

    def broken(text: str) -> str:
        assert old in text, "the script has changed: bring the mistake along"
        return text.replace(old, new, 1)

    return broken


def full(client: redis.Redis) -> None:
    """From now on the server has no memory to give."""
    client.config_set("maxmemory", 1)


def finishes_without_memory(client: redis.Redis, topic: str) -> None:
    bus.enqueue_task(topic, 1)
    desk = Desk(topic)
    item = desk.one()
    full(client)
    assert desk.complete(item) == ["ok"]


def refuses_whole_without_memory(client: redis.Redis, topic: str) -> None:
    bus.enqueue_task(topic, 1)
    full(client)
    for task_id in (None, tasks.new_id()):  # by `send`, and by `enqueue`
        with pytest.raises(errors.BusUnavailable):
            bus.enqueue_task(topic, 2, task_id=task_id)
    assert bus.stats(topic)["backlog"] == 1


def ends_only_what_is_its_own(client: redis.Redis, topic: str) -> None:
    bus.enqueue_task(topic, 1)
    slow, second = Desk(topic, "slow#00000001"), Desk(topic, "second#00000001")
    item = slow.one()
    slow.lose()
    second.one()
    assert slow.complete(item) == ["fenced"]


def beats_only_for_its_own(client: redis.Redis, topic: str) -> None:
    bus.enqueue_task(topic, 1)
    slow, second = Desk(topic, "slow#00000001"), Desk(topic, "second#00000001")
    item = slow.one()
    slow.lose()
    taken = second.one()
    slow.beat(item)
    assert second.complete(taken) == ["ok"]


def finds_what_came_before_the_first_agent(client: redis.Redis, topic: str) -> None:
    task_id = bus.enqueue_task(topic, 1)
    assert Desk(topic).one().id == task_id


def survives_a_promoter_that_dies(client: redis.Redis, topic: str) -> None:
    """After its first step, that is, for whoever promotes in more than one."""
    bus.enqueue_task(topic, 1, delay_s=60)
    delayed = keys.named("delayed", topic)
    [task_id] = client.zrange(delayed, 0, -1)  # type: ignore[misc]
    client.zadd(delayed, {task_id: 1})
    looks.promote(topic)
    assert wounds(client, topic) == []
    assert bus.stats(topic)["waiting"] == 1


MISTAKES = {
    "XADD before any release": Mistake(
        "complete", swap("call('HDEL', tasks, '')\n", ""), finishes_without_memory
    ),
    "no owner check": Mistake(
        "complete",
        swap("r.n == fence_n and held(sid)", "true"),
        ends_only_what_is_its_own,
    ),
    "blind XCLAIM": Mistake(
        "heartbeat",
        swap(
            "and r.n == fence_n\n      and holds(tasks_stream, group, sid, me)",
            "",
        ),
        beats_only_for_its_own,
    ),
    "a group that begins at $": Mistake(
        "ensure_group",
        swap("name, '0', 'MKSTREAM'", "name, '$', 'MKSTREAM'"),
        finds_what_came_before_the_first_agent,
    ),
    "ZREM and XADD in two calls": Mistake(
        "promote",
        swap(
            "  call('ZREM', delayed, id)\n",
            "  call('ZREM', delayed, id)\n  if true then return { 0, -1 } end\n",
        ),
        survives_a_promoter_that_dies,
    ),
    "no rule for the first write": Mistake(
        "enqueue",
        swap("local six", "call('HDEL', tasks, '')\nlocal six"),
        refuses_whole_without_memory,
    ),
}


@pytest.fixture(autouse=True)
def memory(redis_client: redis.Redis, settings: Settings) -> None:
    """`redis_client` gives it back afterwards; nobody waits for it meanwhile."""
    settings.MESH_SEND_RETRY_S = 0.05


@pytest.mark.parametrize("name", MISTAKES)
def test_without_the_mistake_all_is_well(
    redis_client: redis.Redis, test_topic: str, name: str
) -> None:
    MISTAKES[name].scenario(redis_client, test_topic)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_mistake_is_noticed(
    redis_client: redis.Redis,
    test_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    mistake = MISTAKES[name]
    script = verbs.SCRIPTS[mistake.verb]
    text = mistake.broken(script.text)
    redis_client.script_load(text)  # a mistake, not nonsense
    sha = hashlib.sha1(text.encode()).hexdigest()
    monkeypatch.setitem(
        verbs.SCRIPTS, mistake.verb, replace(script, text=text, sha=sha)
    )

    with pytest.raises((Exception, pytest.fail.Exception)):
        mistake.scenario(redis_client, test_topic)
    chronicle.record("S13 proofs", faults={"mistake of design, and noticed": 1})
