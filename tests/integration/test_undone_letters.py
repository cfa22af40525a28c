"""A letter that was brought back died when it died, wherever that is told or asked."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import bus
from bus import keys, messages, timeline
from bus.bulk import selection
from bus.sought import Sought
from dashboard import lists as pages
from tests.support.api import api
from tests.support.desk import Desk
from tests.support.waiting import wait_until


def died_ms(task_id: str) -> int:
    return messages.iso_ms(bus.get_dead(task_id).died_at) or 0


def later(ms: int) -> int:
    """A server time after this one, once it is over."""
    wait_until(lambda: bus.agents.server_ms() > ms + 2)
    return ms + 2


@pytest.fixture
def lives(test_topic: str) -> dict[str, Any]:
    """Three letters in order, of which the first was discarded and brought back."""
    desk = Desk(test_topic)
    found: dict[str, Any] = {"ids": [], "between": []}
    for n in range(3):
        task_id = bus.enqueue_task(test_topic, n)
        desk.fail(desk.one(), final=True, message="no ink")
        found["ids"].append(task_id)
        found["between"].append(later(died_ms(task_id)))
    first = found["ids"][0]
    found |= {"before": bus.get_dead(first), "groups": bus.dead_groups(test_topic)}
    bus.discard(first, test_topic)
    bus.undo(first, test_topic)
    return found


def test_its_death_is_told_as_it_was(test_topic: str, lives: dict[str, Any]) -> None:
    first, before = lives["ids"][0], lives["before"]

    after = bus.get_dead(first)

    assert after.entry_id != before.entry_id
    assert after.died_at == before.died_at
    assert bus.get_task(first).ended_at == before.died_at
    assert f"died at {before.died_at}" in bus.explain(first)
    assert bus.dead_groups(test_topic) == lives["groups"]


def test_it_died_once(lives: dict[str, Any]) -> None:
    told = timeline.timeline(bus.get_task(lives["ids"][0]))

    assert [row["what"] for row in told] == [
        *("enqueued", "started", "failed", "dead", "discarded", "restored"),
    ]
    assert told[3]["at"] == lives["before"].died_at


def test_so_it_is_when_that_happens_again(
    test_topic: str, lives: dict[str, Any]
) -> None:
    first = lives["ids"][0]

    bus.discard(first)
    discarded = bus.get_task(first)
    bus.undo(first)

    assert discarded.ended_at == bus.get_dead(first).died_at == lives["before"].died_at
    assert bus.dead_groups(test_topic) == lives["groups"]


def test_a_group_that_begins_with_it_begins_then(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True)
    [before] = bus.dead_groups(test_topic)
    later(died_ms(task_id))

    bus.discard(task_id)
    bus.undo(task_id)

    assert bus.dead_groups(test_topic) == [before]


@pytest.mark.django_db
@pytest.mark.usefixtures("nothing_known")
def test_it_is_found_by_the_time_of_its_death(
    test_topic: str, lives: dict[str, Any]
) -> None:
    first, second, third = lives["ids"]
    one, two, _ = lives["between"]
    spans = {
        (0, one): {first},
        (one, two): {second},
        (two, None): {third},
        (one, None): {second, third},
        (0, None): {first, second, third},
    }
    for (since_ms, until_ms), wanted in spans.items():
        since = messages.iso(since_ms)
        query = f"?topic={test_topic}&since={since}"
        query += f"&until={messages.iso(until_ms)}" if until_ms else ""
        listed = {row["id"] for row in api().get(f"dead{query}").json()["dead"]}
        chosen = selection.checked(
            topics=[test_topic], since_ms=since_ms, until_ms=until_ms
        )
        found = selection.find(chosen, lambda topic: True)
        bulk = {member.split()[1] for member in found.members.get(test_topic, [])}
        facts = [bus.stats(test_topic)]
        sought = Sought((test_topic,), None, None, since_ms, until_ms)
        page = pages.dead_sought(facts, sought, 50)
        shown = {letter.id for letter in page.items}
        assert (listed, bulk, shown) == (wanted, wanted, wanted)


@pytest.mark.parametrize("died", ["", "x", "-1", "9" * 25, "99999999999999"])
def test_nobody_makes_a_letter_die_after_it_came(
    test_topic: str, redis_client: redis.Redis, died: str
) -> None:
    fields: Any = {"id": "x", "json": "1", "died": died}
    entry_id = str(redis_client.xadd(keys.dead_stream(test_topic), fields))

    [letter] = bus.list_dead(test_topic)

    assert letter.died_at == messages.iso(messages.entry_ms(entry_id))
