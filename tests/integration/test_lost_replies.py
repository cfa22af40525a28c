"""The server did it, but its answer never came: the repeat is the same deed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, judge, lines, looks, verbs
from tests.support import packed
from tests.support.nemesis import FailureSimulator

GROUP = "workers"
TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"

Lose = Callable[..., None]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lose]:
    """`lose(verb)`: the next reply of that script is lost; it has to come by that.

    Of several at least the `fewest` have to, by default all.
    """
    arranged: list[tuple[str, list[str], int]] = []

    def arrange(verb: str, times: int = 1, fewest: int | None = None) -> None:
        real = lines.Lines.execute_packed
        sha, lost = verbs.SCRIPTS[verb].sha, list[str]()

        def execute(client: lines.Lines, data: bytes, *meanwhile: Any) -> Any:
            reply = real(client, data, *meanwhile)
            if packed.sha_of(data) == sha and len(lost) < times:
                lost.append(verb)
                raise redis.ConnectionError("simulated: reply lost")
            return reply

        monkeypatch.setattr(lines.Lines, "execute_packed", execute)
        arranged.append((verb, lost, times if fewest is None else fewest))

    yield arrange
    for verb, lost, wanted in arranged:
        assert len(lost) >= wanted, f"no such reply was lost: {verb}"


def warm(topic: str) -> None:
    """Have every script on the server, so that each call is one EVALSHA."""
    for script in verbs.SCRIPTS.values():
        bus.get_redis().script_load(script.text)
    bus.create_consumer_group(topic, GROUP)


def running(topic: str) -> tuple[str, str]:
    """Id and entry id of a task in the hand of agent `me`."""
    task_id = bus.enqueue_task(topic, {"n": 1})
    [(entry_id, _)] = bus.read_group(topic, GROUP, "me", block_ms=0)
    return task_id, entry_id


def dead(topic: str) -> str:
    task_id, entry_id = running(topic)
    bus.move_to_dead(topic, entry_id, {})
    return task_id


def state(topic: str, task_id: str) -> str:
    return bus.get_task(task_id, topic).state


def balance(topic: str) -> tuple[int, int]:
    """Tasks that came, and the drift of the ledger."""
    ledger = bus.stats(topic)["ledger"]
    return ledger["came"], ledger["drift"]


@pytest.mark.parametrize("delay_s", [None, 60])
@pytest.mark.parametrize("times", [1, 3])
def test_an_enqueue_is_one_task(
    test_topic: str, lose: Lose, delay_s: float | None, times: int
) -> None:
    warm(test_topic)
    lose("enqueue", times)

    bus.enqueue_task(test_topic, 1, delay_s=delay_s)

    assert balance(test_topic) == (1, 0)


def test_an_enqueue_at_the_bound_is_accepted(test_topic: str, lose: Lose) -> None:
    """The repeat finds the topic full, of that very task."""
    warm(test_topic)
    lose("enqueue")

    task_id = bus.enqueue_task(test_topic, 1, 1)

    assert state(test_topic, task_id) == "waiting"


def test_a_batch_is_a_batch(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    lose("enqueue")

    ids = bus.enqueue_many(test_topic, range(150))

    assert len(set(ids)) == 150
    assert balance(test_topic) == (150, 0)


def end_meanwhile(monkeypatch: pytest.MonkeyPatch, end: Callable[[], Any]) -> list[str]:
    """A fast agent ends the task before its sender hears of it and repeats itself.

    The list says for which script it was that fast.
    """
    real = lines.Lines.execute_packed
    sha, ended = verbs.SCRIPTS["enqueue"].sha, list[str]()

    def execute(client: lines.Lines, data: bytes, *meanwhile: Any) -> Any:
        reply = real(client, data, *meanwhile)
        if packed.sha_of(data) == sha and not ended:
            ended.append("enqueue")
            end()
            raise redis.TimeoutError("simulated: reply lost")
        return reply

    monkeypatch.setattr(lines.Lines, "execute_packed", execute)
    return ended


def acknowledge(topic: str) -> None:
    [(entry_id, _)] = bus.read_group(topic, GROUP, "me", block_ms=0)
    bus.ack(topic, GROUP, entry_id)


def give_up(topic: str) -> None:
    [(entry_id, fields)] = bus.read_group(topic, GROUP, "me", block_ms=0)
    bus.move_to_dead(topic, entry_id, {"error": "no", "payload": fields["payload"]})


@pytest.mark.parametrize(
    "end",
    [acknowledge, give_up, lambda topic: bus.cancel(TASK_ID, topic)],
    ids=["acknowledged", "moved to dead", "cancelled"],
)
def test_an_enqueue_whose_task_ended_meanwhile_is_accepted(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, end: Callable[[str], Any]
) -> None:
    warm(test_topic)
    ended = end_meanwhile(monkeypatch, lambda: end(test_topic))

    # A tuple is a list once it was JSON: still the same payload.
    assert bus.enqueue_task(test_topic, ("a", 1), task_id=TASK_ID) == TASK_ID
    assert ended == ["enqueue"]
    assert balance(test_topic) == (1, 0)


@pytest.mark.parametrize("times", [1, 3])
def test_an_ack_ends_one_task_and_says_so(
    test_topic: str, lose: Lose, times: int
) -> None:
    warm(test_topic)
    task_id, entry_id = running(test_topic)
    lose("ack", times)

    assert bus.ack(test_topic, GROUP, entry_id) == 1

    assert bus.ack(test_topic, GROUP, entry_id) == 0
    assert state(test_topic, task_id) == "done"
    assert bus.stats(test_topic)["done"] == 1


def test_a_repeated_ack_claims_no_end_that_was_another(
    test_topic: str, lose: Lose
) -> None:
    warm(test_topic)
    task_id, entry_id = running(test_topic)
    bus.move_to_dead(test_topic, entry_id, {})
    lose("ack")

    assert bus.ack(test_topic, GROUP, entry_id) == 0
    assert state(test_topic, task_id) == "dead"


def test_a_move_to_dead_is_one_letter(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    _, entry_id = running(test_topic)
    lose("move_to_dead", 2)

    dead_id = bus.move_to_dead(test_topic, entry_id, {})

    assert [letter.entry_id for letter in bus.list_dead(test_topic)] == [dead_id]
    assert balance(test_topic) == (1, 0)


def test_a_move_of_an_unknown_entry_is_one_letter(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    lose("move_to_dead", 2)

    dead_id = bus.move_to_dead(test_topic, "1-0", {})

    assert [letter.entry_id for letter in bus.list_dead(test_topic)] == [dead_id]
    assert balance(test_topic) == (1, 0)


def test_a_replay_is_one_replay_and_a_success(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    task_id = dead(test_topic)
    lose("replay", 2)

    assert bus.replay(task_id, test_topic) == task_id

    assert bus.get_task(task_id, test_topic).epoch == 1
    assert bus.stats(test_topic)["replayed"] == 1
    assert len(bus.read_group(test_topic, GROUP, "me", 5, block_ms=0)) == 1


def test_a_discard_is_one_discard_and_a_success(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    task_id = dead(test_topic)
    lose("discard")

    bus.discard(task_id, test_topic)

    assert state(test_topic, task_id) == "discarded"
    assert bus.stats(test_topic)["discarded"] == 1


def test_an_undo_is_one_undo_and_a_success(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    task_id = dead(test_topic)
    bus.discard(task_id, test_topic)
    lose("undo")

    dead_id = bus.undo(task_id, test_topic)

    assert [letter.entry_id for letter in bus.list_dead(test_topic)] == [dead_id]
    assert balance(test_topic) == (1, 0)


@pytest.mark.parametrize("delay_s", [None, 60])
def test_a_cancel_is_one_cancel_and_a_success(
    test_topic: str, lose: Lose, delay_s: float | None
) -> None:
    warm(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, delay_s=delay_s)
    lose("cancel")

    assert bus.cancel(task_id, test_topic) == "cancelled"

    assert bus.stats(test_topic)["cancelled"] == 1


@pytest.mark.parametrize("verb", ["ensure_group", "claim"])
def test_a_read_gives_every_task_without_waiting_for_a_lease(
    test_topic: str, lose: Lose, verb: str
) -> None:
    """What came with the lost reply is in nobody's hand but this reader's."""
    warm(test_topic)
    ids = bus.enqueue_many(test_topic, range(3))
    lose(verb)

    seen = [
        fields["id"]
        for _ in range(4)
        for _, fields in bus.read_group(test_topic, GROUP, "me", 1, block_ms=0)
    ]

    assert sorted(seen) == sorted(ids)


def test_a_read_never_gives_again_what_its_agent_has_in_hand(
    test_topic: str, lose: Lose
) -> None:
    """However short the time since: it would be worked on twice."""
    warm(test_topic)
    bus.enqueue_many(test_topic, range(4))
    in_hand = bus.read_group(test_topic, GROUP, "me", 2, block_ms=0)
    lose("claim")

    more = bus.read_group(test_topic, GROUP, "me", 2, block_ms=0)

    assert {entry_id for entry_id, _ in in_hand}.isdisjoint(i for i, _ in more)


def test_a_registration_is_one_registration(
    redis_client: redis.Redis, lose: Lose
) -> None:
    bus.register_agent("warm", "t")
    lose("register")

    bus.register_agent("a", "t")

    assert [agent["agent_id"] for agent in bus.list_agents()] == ["a", "warm"]


@pytest.mark.parametrize("verb", ["promote", "reclaim"])
def test_a_duty_is_done_once(
    test_topic: str, redis_client: redis.Redis, lose: Lose, verb: str
) -> None:
    warm(test_topic)
    running(test_topic)
    late = bus.enqueue_task(test_topic, 1, delay_s=60)
    redis_client.zadd(f"mesh:{{{test_topic}}}:delayed", {late: 1})
    lose(verb)

    for _ in range(2):
        try:
            looks.promote(test_topic)
            judge.take(test_topic, GROUP, "me", idle_ms=0)
        except errors.BusUnavailable:
            continue

    assert len(bus.read_group(test_topic, GROUP, "you", 9, block_ms=0)) == 2
    assert bus.stats(test_topic)["lost"] == 1
    assert balance(test_topic) == (2, 0)


def test_limits_and_pauses_are_what_was_said(test_topic: str, lose: Lose) -> None:
    warm(test_topic)
    lose("set_topic", 2)

    bus.set_limits(test_topic, results_keep=7)
    bus.pause(test_topic)

    stats = bus.stats(test_topic)
    assert (stats["limits"]["results_keep"], stats["paused"]) == (7, True)


@pytest.mark.parametrize("every", [7, 11])
def test_a_topic_drains_exactly_once_over_a_line_that_loses_replies(
    test_topic: str,
    failure_simulator: FailureSimulator,
    settings: Settings,
    every: int,
) -> None:
    warm(test_topic)
    failure_simulator.lose_replies(every)

    ids = insist(lambda: bus.enqueue_many(test_topic, range(60), task_ids=IDS))
    dead_ids = set()
    while insist(lambda: bus.stats(test_topic))["backlog"]:
        insist(lambda: judge.take(test_topic, GROUP, "me", idle_ms=0))
        for entry_id, fields in insist(
            lambda: bus.read_group(test_topic, GROUP, "me", 4, block_ms=0)
        ):
            if fields["payload"] % 5:
                insist(lambda sid=entry_id: bus.ack(test_topic, GROUP, sid))
            else:
                dead_ids.add(fields["id"])
                insist(lambda sid=entry_id: bus.move_to_dead(test_topic, sid, {}))

    failure_simulator.heal()
    stats = bus.stats(test_topic)
    assert failure_simulator.failed > 10
    assert (stats["accepted"], stats["ledger"]["drift"]) == (60, 0)
    dead_now = {letter.id for letter in bus.list_dead(test_topic, 100)}
    assert dead_now >= dead_ids
    assert stats["done"] + stats["dead"] == 60
    assert {bus.get_task(task_id, test_topic).ended for task_id in ids} == {True}


IDS = [f"0198c0de-0000-7000-8000-{n:012x}" for n in range(60)]


def insist(call: Callable[[], Any]) -> Any:
    """What a careful caller does with an outcome it does not know."""
    while True:
        try:
            return call()
        except errors.BusUnavailable:
            continue
