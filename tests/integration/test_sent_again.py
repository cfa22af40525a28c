"""A task sent again while its letter is out of the index is in one state again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import auditor, errors, keys
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

PAYLOAD = {"to": "a@b.c"}


class Story:
    """A task that died; its letter may be torn out of the index, the task sent anew."""

    def __init__(self, client: redis.Redis, topic: str) -> None:
        self.client: Any = client
        self.topic = topic
        self.desk = Desk(topic)
        self.id = bus.enqueue_task(topic, PAYLOAD)
        self.desk.fail(self.desk.one(), final=True)
        self.letter = self.client.hget(self.key("dead_index"), self.id)

    def key(self, name: str) -> str:
        return keys.named(name, self.topic)

    def send_again(self, payload: Any = PAYLOAD, **options: Any) -> None:
        """The same id once more, in a later ms, when nothing tells that it is dead."""
        self.client.hdel(self.key("dead_index"), self.id)
        died_ms = int(self.letter.partition("-")[0])
        wait_until(lambda: self._now_ms() > died_ms, 5, "a ms is over")
        bus.enqueue_task(self.topic, payload, task_id=self.id, **options)

    def complete(self) -> None:
        assert self.desk.complete(self.desk.one()) == ["ok"]

    def fail(self) -> None:
        assert self.desk.fail(self.desk.one(), final=True) == "dead"

    def state(self) -> str:
        return bus.get_task(self.id, self.topic).state

    def letters(self) -> int:
        return int(self.client.xlen(self.key("dead")))

    def _now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds * 1000 + micros // 1000)


@pytest.fixture
def story(redis_client: redis.Redis, test_topic: str) -> Story:
    return Story(redis_client, test_topic)


def audited(story: Story) -> auditor.Findings:
    """What an audit came to after which nothing is wrong any more."""
    found = auditor.audit(story.topic)
    assert (found.seen, found.drift) == ([], 0)
    assert wounds(story.client, story.topic) == []
    assert bus.stats(story.topic)["unmended"] == 0
    return found


LIVES: dict[str, Callable[[Story], object]] = {
    "waiting": lambda s: s.send_again(),
    "delayed": lambda s: s.send_again(delay_s=60),
    "running": lambda s: (s.send_again(), s.desk.one()),
}


@pytest.mark.parametrize("state", LIVES)
def test_a_task_that_lives_again_is_not_dead_as_well(story: Story, state: str) -> None:
    LIVES[state](story)

    found = audited(story)

    assert found.mended == [f"letter {story.id}"]
    assert (story.state(), story.letters()) == (state, 0)
    assert bus.dead_groups(story.topic) == []


def test_a_task_that_is_done_at_last_is_not_dead_as_well(story: Story) -> None:
    story.send_again()
    story.complete()

    found = audited(story)

    assert found.mended == [f"letter {story.id}"]
    assert (story.state(), story.letters()) == ("done", 0)
    stats = bus.stats(story.topic)
    assert (stats["done"], stats["discarded"], stats["repaired"]) == (1, 1, 1)


def test_a_task_that_is_cancelled_at_last_is_not_dead_as_well(story: Story) -> None:
    story.send_again()
    bus.cancel(story.id, story.topic)

    audited(story)

    assert (story.state(), story.letters()) == ("cancelled", 0)


def test_a_task_that_dies_again_has_its_last_letter(story: Story) -> None:
    story.send_again()
    story.fail()
    last = story.client.hget(story.key("dead_index"), story.id)

    audited(story)

    assert bus.get_dead(story.id, story.topic).entry_id == last != story.letter
    assert story.letters() == 1


def test_of_two_letters_out_of_the_index_the_last_one_is_found(story: Story) -> None:
    story.send_again()
    story.fail()
    last = story.client.hget(story.key("dead_index"), story.id)
    story.client.delete(story.key("dead_index"))

    audited(story)

    assert bus.get_dead(story.id, story.topic).entry_id == last
    assert story.letters() == 1


def test_an_end_that_was_forgotten_counts_as_well(story: Story) -> None:
    """While its end is out of the index too, the letter is put back into its own."""
    story.send_again()
    story.complete()
    story.client.delete(story.key("done"))

    audited(story)

    assert (story.state(), story.letters()) == ("done", 0)


def test_a_letter_whose_payload_is_lost_gives_way_to_any(story: Story) -> None:
    story.send_again()
    story.client.delete(story.key("tasks_stream"))
    auditor.audit(story.topic)
    assert story.letters() == 1, "the one that has a payload stays"
    assert bus.get_dead(story.id, story.topic).payload == PAYLOAD

    lost = bus.enqueue_task(story.topic, 1)
    story.client.delete(story.key("tasks_stream"))
    auditor.audit(story.topic)
    story.id, story.letter = lost, bus.get_dead(lost, story.topic).entry_id
    story.send_again(1)
    bus.create_consumer_group(story.topic, "workers")
    story.complete()

    audited(story)

    assert story.state() == "done"


def test_the_discarded_letter_does_not_come_back_beside_its_task(story: Story) -> None:
    story.send_again()
    audited(story)

    with pytest.raises(errors.Conflict):
        bus.undo(story.id, story.topic)
    story.complete()
    with pytest.raises(errors.Conflict):
        bus.undo(story.id, story.topic)

    audited(story)
    assert story.state() == "done"


@pytest.mark.parametrize("end", ["live", "done", "dead"])
def test_another_payload_under_the_same_id_is_for_a_person(
    story: Story, end: str
) -> None:
    story.send_again({"to": "somebody else"})
    if end != "live":
        (story.complete if end == "done" else story.fail)()

    found = auditor.audit(story.topic)

    words = {"live": "live and dead", "done": "done and dead", "dead": "two letters"}
    assert found.seen == [f"{words[end]} {story.id}"]
    assert found.mended == []
    assert bus.stats(story.topic)["unmended"] == 1


def test_a_copy_by_hand_of_a_live_tasks_letter_is_for_a_person(story: Story) -> None:
    """It came after the task, so nothing says that the task came again."""
    [(_, fields)] = story.client.xrange(story.key("dead"))
    bus.replay(story.id, story.topic)
    story.client.xadd(story.key("dead"), fields)

    found = auditor.audit(story.topic)

    assert found.seen == [f"live and dead {story.id}"]
    assert (story.state(), story.letters()) == ("waiting", 1)


def test_a_group_is_rid_of_a_letter_that_is_gone_within_a_round_or_two(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Whatever the number of its members: a small group is looked at whole."""
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(7))
    desk.fail_all(*[desk.failure(item, final=True) for item in desk.claim(7)])
    [fp] = [group["fingerprint"] for group in bus.dead_groups(test_topic)]
    [first] = redis_client.zrange(keys.group_key(test_topic, fp), 0, 0)
    [(_, fields)] = redis_client.xrange(bus.dead_stream(test_topic), first, first)
    redis_client.xdel(bus.dead_stream(test_topic), first)
    redis_client.hdel(keys.named("dead_index", test_topic), fields["id"])

    found = auditor.audit(test_topic)

    assert f"group {first}" in found.mended
    left = wounds(redis_client, test_topic)
    assert all(wound.startswith("the ledger") for wound in left), left
