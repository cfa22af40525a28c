"""Dead letters: written once, grouped, replayed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import bus
from bus import errors, keys
from tests.support import agents, work
from tests.support.waiting import wait_until

GROUP = "workers"
UNKNOWN = "0198c0de-0000-7000-8000-000000000000"


def read_one(topic: str) -> tuple[str, dict[str, Any]]:
    [(entry_id, fields)] = bus.read_group(topic, GROUP, "me", block_ms=0)
    return entry_id, fields


def dead_task(topic: str, payload: Any = None, error: str = "no ink") -> str:
    """The id of a task that an agent by hand moved to dead with its payload."""
    task_id = bus.enqueue_task(topic, {"n": 1} if payload is None else payload)
    entry_id, fields = read_one(topic)
    letter = fields["payload"]
    if isinstance(letter, dict):
        letter = {"error": error, **letter}
    bus.move_to_dead(topic, entry_id, letter)
    return task_id


def fail_for_good(topic: str, task_id: str) -> None:
    """Let an agent of the runtime fail this task until it is dead."""
    with agents.running(topic, work.failing, max_attempts=2, backoff_s=0.001):
        wait_until(lambda: bus.get_task(task_id, topic).state == "dead", 20)


def drift(topic: str) -> int:
    return int(bus.stats(topic)["ledger"]["drift"])


# --- move_to_dead


def test_a_moved_task_leaves_nothing_behind(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = dead_task(test_topic)

    key = bus.task_stream(test_topic)
    stats = bus.stats(test_topic)
    assert redis_client.xlen(key) == 0
    assert redis_client.xpending(key, GROUP)["pending"] == 0
    assert (stats["backlog"], stats["dead"], drift(test_topic)) == (0, 1, 0)
    assert bus.get_task(task_id, test_topic).state == "dead"


def test_moving_it_again_is_the_same_letter(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)

    first = bus.move_to_dead(test_topic, entry_id, {"error": "a"})
    again = bus.move_to_dead(test_topic, entry_id, {"error": "b"})

    assert first == again
    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


def test_moving_it_again_after_many_others_is_still_the_same_letter(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, "first")
    entry_id, _ = read_one(test_topic)
    first = bus.move_to_dead(test_topic, entry_id, "first")
    bus.enqueue_many(test_topic, range(150))
    for other, _ in bus.read_group(test_topic, GROUP, "me", 150, block_ms=0):
        bus.move_to_dead(test_topic, other, "other")

    again = bus.move_to_dead(test_topic, entry_id, "first")

    assert first == again
    assert bus.stats(test_topic)["dead"] == 151


def test_moving_it_again_after_it_was_discarded_and_restored_is_still_the_same_letter(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)
    bus.move_to_dead(test_topic, entry_id, {})
    bus.discard(task_id, test_topic)
    restored = bus.undo(task_id, test_topic)

    assert bus.move_to_dead(test_topic, entry_id, {}) == restored
    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


@pytest.mark.parametrize("verb", [bus.get_dead, bus.replay, bus.discard])
def test_a_letter_is_known_under_the_id_of_its_task_only(
    test_topic: str, verb: Any
) -> None:
    """An entry id alone stands for a task only where nobody knows a better one."""
    task_id = bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)
    bus.move_to_dead(test_topic, entry_id, {})

    with pytest.raises(errors.DeadLetterNotFound):
        verb(keys.foreign_id(test_topic, entry_id), test_topic)

    assert bus.get_task(task_id, test_topic).state == "dead"
    assert drift(test_topic) == 0


def test_moving_it_from_many_threads_is_one_letter(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)

    with ThreadPoolExecutor(8) as pool:
        moves = pool.map(
            lambda n: bus.move_to_dead(test_topic, entry_id, {"n": n}), range(16)
        )
        letters = set(moves)

    assert len(letters) == 1
    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


@pytest.mark.parametrize("entry_id", ["1-0", "0-0", "99999999999999-0"])
def test_an_unknown_entry_is_a_letter_of_its_own_and_the_same_each_time(
    test_topic: str, entry_id: str
) -> None:
    first = bus.move_to_dead(test_topic, entry_id, {"n": 1})
    again = bus.move_to_dead(test_topic, entry_id, {"n": 2})

    [letter] = bus.list_dead(test_topic)
    assert first == again == letter.entry_id
    assert letter.payload == {"n": 1}
    assert drift(test_topic) == 0


def test_two_unknown_entries_are_two_letters(test_topic: str) -> None:
    bus.move_to_dead(test_topic, "1-0", {})
    bus.move_to_dead(test_topic, "1-1", {})

    assert len({letter.id for letter in bus.list_dead(test_topic)}) == 2


def test_a_move_after_an_ack_leaves_the_task_done(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)
    bus.ack(test_topic, GROUP, entry_id)

    bus.move_to_dead(test_topic, entry_id, {"late": True})

    [letter] = bus.list_dead(test_topic)
    assert letter.id != task_id
    assert bus.get_task(task_id, test_topic).state == "done"
    assert drift(test_topic) == 0


def test_an_ack_after_a_move_changes_nothing(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    entry_id, _ = read_one(test_topic)
    bus.move_to_dead(test_topic, entry_id, {})

    assert bus.ack(test_topic, GROUP, entry_id) == 0
    assert bus.get_task(task_id, test_topic).state == "dead"


def test_a_task_nobody_has_read_can_be_moved_too(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = redis_client.xrange(bus.task_stream(test_topic))

    bus.move_to_dead(test_topic, entry_id, {})

    assert bus.get_task(task_id, test_topic).state == "dead"
    assert bus.read_group(test_topic, GROUP, "me", block_ms=0) == []


def test_a_letter_keeps_when_its_task_was_enqueued(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    enqueued_at = bus.get_task(task_id, test_topic).enqueued_at
    entry_id, _ = read_one(test_topic)

    bus.move_to_dead(test_topic, entry_id, {})

    [letter] = bus.list_dead(test_topic)
    assert letter.enqueued_at == enqueued_at
    assert letter.died_at >= enqueued_at


def acked(topic: str) -> None:
    entry_id, _ = read_one(topic)
    bus.ack(topic, GROUP, entry_id)


@pytest.mark.parametrize(
    ("since", "state"),
    [
        (lambda topic, task_id: bus.replay(task_id, topic), "waiting"),
        (lambda topic, task_id: (bus.replay(task_id, topic), acked(topic)), "done"),
        (lambda topic, task_id: bus.discard(task_id, topic), "discarded"),
    ],
    ids=["replayed", "done", "discarded"],
)
def test_a_late_repeat_for_an_entry_nobody_knew_leaves_its_task_alone(
    test_topic: str, since: Any, state: str
) -> None:
    bus.move_to_dead(test_topic, "1-0", {"n": 1})
    [letter] = bus.list_dead(test_topic)
    since(test_topic, letter.id)

    with pytest.raises(errors.NotDead, match="since"):
        bus.move_to_dead(test_topic, "1-0", {"n": 1})

    assert bus.get_task(letter.id, test_topic).state == state
    assert bus.list_dead(test_topic) == []
    assert drift(test_topic) == 0


@pytest.mark.parametrize("said", ["", None, 0, {"deep": [1]}, "\x00", "x" * 5_000])
def test_whatever_stands_under_error_is_told(test_topic: str, said: Any) -> None:
    bus.move_to_dead(test_topic, "1-0", {"error": said})

    [letter] = bus.list_dead(test_topic)
    assert letter.payload == {"error": said}
    assert letter.error["message"]
    assert len(letter.error["message"]) <= 1_024


# --- looking at them


def test_letters_are_listed_newest_first_and_page_by_page(test_topic: str) -> None:
    ids = [dead_task(test_topic, n) for n in range(5)]

    first = bus.list_dead(test_topic, count=2)
    second = bus.list_dead(test_topic, count=10, before=first[-1].entry_id)

    assert [letter.id for letter in (*first, *second)] == ids[::-1]


@pytest.mark.parametrize("count", [0, -1, "5"])
def test_a_page_of_nothing_is_refused(test_topic: str, count: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="count"):
        bus.list_dead(test_topic, count=count)


@pytest.mark.parametrize("before", ["", "x", "5", "*", "1-"])
def test_a_page_behind_nothing_is_refused(test_topic: str, before: str) -> None:
    with pytest.raises(errors.InvalidName, match="entry id"):
        bus.list_dead(test_topic, before=before)


def test_a_letter_is_found_by_its_task(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    assert bus.get_dead(task_id, test_topic).id == task_id
    with pytest.raises(errors.DeadLetterNotFound, match=UNKNOWN):
        bus.get_dead(UNKNOWN, test_topic)


def test_equal_failures_are_one_group(test_topic: str) -> None:
    for n in range(3):
        dead_task(test_topic, {"n": n}, error=f"no ink in printer {n}")
    dead_task(test_topic, error="no paper")

    ink, paper = bus.dead_groups(test_topic)

    assert (ink["count"], ink["total"], paper["count"]) == (3, 3, 1)
    assert ink["error"]["message"].startswith("no ink in printer")
    assert ink["first_at"] <= ink["last_at"]
    assert bus.stats(test_topic)["dead_groups"] == 2


def test_a_group_remembers_what_was_replayed_until_its_last_letter_goes(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = [dead_task(test_topic) for _ in range(2)]

    bus.replay(ids[0], test_topic)
    [group] = bus.dead_groups(test_topic)
    bus.replay(ids[1], test_topic)

    assert (group["count"], group["total"]) == (1, 2)
    assert bus.dead_groups(test_topic) == []
    assert list(redis_client.scan_iter("*:group:*")) == []


# --- replay


def test_a_replayed_letter_is_the_same_task_in_its_next_epoch(test_topic: str) -> None:
    task_id = dead_task(test_topic, "payload")

    assert bus.replay(task_id, test_topic) == task_id

    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.epoch, task.payload) == ("waiting", 1, "payload")
    assert bus.list_dead(test_topic) == []
    assert (bus.stats(test_topic)["replayed"], drift(test_topic)) == (1, 0)


def test_a_replay_can_change_the_payload(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    bus.replay(task_id, test_topic, payload={"fixed": True})

    assert read_one(test_topic)[1]["payload"] == {"fixed": True}


def test_a_replay_can_make_the_payload_null(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    bus.replay(task_id, test_topic, payload=None)

    assert read_one(test_topic)[1]["payload"] is None


def test_a_replay_with_a_bad_payload_leaves_the_letter(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    with pytest.raises(errors.InvalidPayload):
        bus.replay(task_id, test_topic, payload=float("nan"))

    assert bus.get_dead(task_id, test_topic).epoch == 0


def test_a_task_dead_again_has_two_histories(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    fail_for_good(test_topic, task_id)

    bus.replay(task_id, test_topic)
    fail_for_good(test_topic, task_id)

    letter = bus.get_dead(task_id, test_topic)
    history = [(row["epoch"], row["attempt"]) for row in letter.attempts]
    assert history == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert letter.epoch == 1
    assert {row["error"]["message"] for row in letter.attempts} == {"cannot do x"}


def test_a_replayed_task_that_succeeds_leaves_no_history(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    fail_for_good(test_topic, task_id)
    bus.replay(task_id, test_topic)

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "done", 20)

    assert redis_client.hlen(f"mesh:{{{test_topic}}}:attempts") == 0
    assert drift(test_topic) == 0


def test_a_replay_keeps_the_options_of_the_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, max_attempts=7, timeout_s=2.5)
    for _ in range(2):
        bus.move_to_dead(test_topic, read_one(test_topic)[0], {})
        bus.replay(task_id, test_topic)

    task = bus.get_task(task_id, test_topic)

    assert (task.max_attempts, task.timeout_s, task.epoch) == (7, 2.5, 2)


def test_a_replay_against_a_discard_is_one_of_the_two(test_topic: str) -> None:
    for _ in range(8):
        task_id = dead_task(test_topic)

        def attempt(verb: Any, task_id: str = task_id) -> str:
            try:
                verb(task_id, test_topic)
            except errors.NotDead:
                return "late"
            return str(verb.__name__)

        with ThreadPoolExecutor(2) as pool:
            outcomes = sorted(pool.map(attempt, [bus.replay, bus.discard]))

        states = {"discard": "discarded", "replay": "waiting"}
        assert outcomes[0] in ("discard", "late")
        assert outcomes.count("late") == 1
        [winner] = [name for name in outcomes if name != "late"]
        assert bus.get_task(task_id, test_topic).state == states[winner]
        if winner == "replay":
            bus.cancel(task_id, test_topic)
    assert drift(test_topic) == 0


def test_a_replay_of_the_letter_that_was_seen_spares_a_later_one(
    test_topic: str,
) -> None:
    task_id = dead_task(test_topic)
    seen = bus.get_dead(task_id, test_topic).entry_id
    bus.replay(task_id, test_topic, entry_id=seen)
    entry_id, fields = read_one(test_topic)
    bus.move_to_dead(test_topic, entry_id, fields["payload"])

    with pytest.raises(errors.NotDead):
        bus.replay(task_id, test_topic, entry_id=seen)

    assert bus.get_task(task_id, test_topic).state == "dead"


@pytest.mark.parametrize("verb", [bus.replay, bus.discard])
def test_a_live_task_is_not_dead(test_topic: str, verb: Any) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.NotDead, match=task_id):
        verb(task_id, test_topic)

    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.parametrize("verb", [bus.replay, bus.discard, bus.undo])
def test_an_unknown_task_has_no_letter(test_topic: str, verb: Any) -> None:
    with pytest.raises(errors.DeadLetterNotFound, match=UNKNOWN):
        verb(UNKNOWN, test_topic)


@pytest.mark.parametrize("verb", [bus.replay, bus.discard, bus.undo])
@pytest.mark.parametrize("task_id", ["", "x", "*", None])
def test_what_is_no_task_id_is_refused(
    test_topic: str, verb: Any, task_id: Any
) -> None:
    with pytest.raises(errors.InvalidName, match="task id"):
        verb(task_id, test_topic)
