"""`manage.py dead`: what it shows of letters, and what it refuses to do to them."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from bus import keys
from tests.integration.test_commands import Terminal
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db  # what it does is on the audit trail


def run(*args: str) -> tuple[str, str]:
    """What the command writes to both streams."""
    out, err = io.StringIO(), io.StringIO()
    call_command("dead", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refused(*args: str) -> tuple[int, str]:
    """The exit code of a command that is refused, and its words."""
    with pytest.raises(CommandError) as refusal:
        run(*args)
    return refusal.value.returncode, str(refusal.value)


def died(topic: str, *messages: str) -> list[str]:
    """Tasks that died with these messages, in this order."""
    desk, ids = Desk(topic), []
    for n, message in enumerate(messages):
        ids.append(bus.enqueue_task(topic, {"n": n}))
        desk.fail(desk.one(), message=message, final=True)
    return ids


@pytest.mark.parametrize("verb", ["list", "groups"])
def test_no_letters_are_told_in_words_and_as_no_lines(
    test_topic: str, verb: str
) -> None:
    bus.enqueue_task(test_topic, 1)

    assert run(verb) == ("No dead letters.\n", "")
    assert run(verb, test_topic, "--json") == ("", "")


@pytest.mark.parametrize("verb", ["list", "groups"])
def test_a_topic_is_named_by_itself_or_as_an_option(test_topic: str, verb: str) -> None:
    died(test_topic, "a mistake")
    died(f"{test_topic}-2", "another")

    by_itself = run(verb, test_topic, "--json")

    assert len(by_itself[0].splitlines()) == 1
    assert run(verb, "--topic", test_topic, "--json") == by_itself
    assert run(verb, "--json", f"--topic={test_topic}") == by_itself
    _, said = refused(verb, test_topic, "--topic", f"{test_topic}-2")
    assert "name one topic" in said


def test_the_newest_are_listed_with_all_their_facts(test_topic: str) -> None:
    ids = died(test_topic, "first", "second", "third")

    said, _ = run("list", test_topic, "--json", "--count", "2")

    rows = [json.loads(line) for line in said.splitlines()]
    assert [row["id"] for row in rows] == [ids[2], ids[1]]
    assert rows[0]["task"] == {"n": 2}
    assert rows[0]["error"]["message"] == "third"
    assert len(rows[0]["attempts"]) == 1 and rows[0]["replays"] == []


def test_groups_count_the_same_failure_once_the_most_frequent_first(
    test_topic: str,
) -> None:
    died(test_topic, "[red]disk full[/]", "no route", "no route")

    table, _ = run("groups")
    said, _ = run("groups", test_topic, "--json")

    rows = [json.loads(line) for line in said.splitlines()]
    assert sorted((row["topic"], row["count"]) for row in rows) == [
        (test_topic, 1),
        (test_topic, 2),
    ]
    first, second = table.splitlines()[1:]
    assert "ValueError: no route" in first
    assert "ValueError: [red]disk full[/]" in second  # text, not markup
    assert all(any(row["fingerprint"] in line for row in rows) for line in (first,))


def test_a_letter_is_shown_whole_and_harmless(test_topic: str) -> None:
    [task_id] = died(test_topic, "a\x1b[31m red word")

    said, _ = run("show", task_id)

    assert json.loads(said)["error"]["message"] == "a\x1b[31m red word"
    assert "\x1b" not in said


def test_a_letter_that_somebody_nested_deeply_is_shown_as_well(test_topic: str) -> None:
    deep = json.loads("[" * 300 + "]" * 300)
    entry_id = bus.get_redis().xadd(bus.task_stream(test_topic), {"json": "1"})
    bus.move_to_dead(test_topic, str(entry_id), deep)
    [letter] = bus.list_dead(test_topic)

    assert json.loads(run("show", letter.id)[0])["task"] == deep


@pytest.mark.parametrize("verb", ["show", "replay", "discard"])
def test_an_unknown_id_is_told(test_topic: str, verb: str) -> None:
    died(test_topic, "no")
    nobody = str(uuid.uuid4())

    code, words = refused(verb, nobody)

    assert code == 1
    assert nobody in words


@pytest.mark.parametrize("verb", ["show", "replay", "discard", "undo"])
def test_what_is_no_id_is_an_error_of_usage(test_topic: str, verb: str) -> None:
    code, words = refused(verb, "mail-7")

    assert code == 2
    assert "mail-7" in words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["replay"], "name one or more task ids, or --all"),
        (["discard"], "name one or more task ids, or --all"),
        (["replay", "--all"], "--all needs --topic and no ids"),
        (["discard", "--all", "--topic", "t", "an-id"], "--all needs --topic and no"),
        (["replay", "one", "two", "--payload", "1"], "--payload is for one ID"),
        (["replay", "one", "--payload", "{n: 1}"], "--payload is not JSON: "),
        (["replay", "one", "--payload", "NaN"], "--payload is not JSON: NaN"),
        (["replay", "one", "--payload", '{"a":1,"a":2}'], "--payload has the key 'a' "),
    ],
)
def test_a_call_that_contradicts_itself_is_refused(
    redis_client: Any, args: list[str], words: str
) -> None:
    code, said = refused(*args)

    assert code == 2
    assert said.startswith(words)


def test_a_refused_payload_leaves_the_letter_where_it_is(test_topic: str) -> None:
    [task_id] = died(test_topic, "no")

    code, words = refused("replay", task_id, "--payload", str(2**64))

    assert code == 2
    assert "beyond" in words
    assert bus.get_task(task_id).state == "dead"


@pytest.mark.parametrize("verb", ["replay", "discard", "undo"])
def test_an_id_of_several_topics_needs_the_topic(test_topic: str, verb: str) -> None:
    other_topic = f"{test_topic}-2"
    [task_id] = died(test_topic, "no")
    bus.enqueue_task(other_topic, 1, task_id=task_id)
    desk = Desk(other_topic)
    desk.fail(desk.one(), final=True)

    code, words = refused(verb, task_id)

    assert code == 1
    assert f"say which: {test_topic}, {other_topic}" in words
    assert bus.get_task(task_id, test_topic).state == "dead"


def test_one_that_is_gone_does_not_stop_the_others(test_topic: str) -> None:
    first, second, third = died(test_topic, "a", "b", "c")
    bus.discard(second, test_topic)
    out, err = io.StringIO(), io.StringIO()

    with pytest.raises(CommandError, match="1 of 3 not replayed") as refusal:
        call_command(
            "dead",
            *("replay", first, second, third, "--topic", test_topic),
            stdout=out,
            stderr=err,
        )

    assert refusal.value.returncode == 1
    assert out.getvalue() == f"{first} replayed\n{third} replayed\n"
    assert err.getvalue().startswith(f"{second} not replayed: ")
    assert [bus.get_task(x, test_topic).state for x in (first, second, third)] == [
        "waiting",
        "discarded",
        "waiting",
    ]


def test_all_of_a_topic_are_discarded_and_one_comes_back(test_topic: str) -> None:
    ids = died(test_topic, "a", "b")

    said, _ = run("discard", "--all", "--topic", test_topic)
    assert said.splitlines() == [f"{task_id} discarded" for task_id in ids]
    assert bus.stats(test_topic)["dead"] == 0

    assert run("undo", ids[0])[0] == f"{ids[0]} is dead again\n"
    assert bus.stats(test_topic)["dead"] == 1
    code, words = refused("undo", ids[0])
    assert (code, ids[0] in words) == (1, True)


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_all_of_a_topic_that_is_not_there_is_a_slip(test_topic: str, verb: str) -> None:
    died(test_topic, "a")

    code, words = refused(verb, "--all", "--topic", "slip")

    assert (code, words) == (1, f"no topic 'slip'; there are: {test_topic}")


@pytest.mark.parametrize("verb", ["list", "groups"])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_what_an_error_says_is_shown_as_it_is(
    test_topic: str, verb: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    odd = r"bad pattern \[/] in [red] :bug:"
    died(test_topic, odd)
    out = Terminal()

    call_command("dead", verb, stdout=out)

    assert odd in " ".join(out.getvalue().split())


def by_hand(client: redis.Redis, topic: str, **fields: str) -> str:
    """The place of a letter that somebody wrote."""
    both: Any = fields
    return str(client.xadd(keys.dead_stream(topic), both))


def test_a_letter_by_hand_without_a_task_does_not_stop_a_replay(
    test_topic: str, redis_client: redis.Redis
) -> None:
    [first] = died(test_topic, "a")
    place = by_hand(redis_client, test_topic, error="no ink")
    [last] = died(test_topic, "b")
    out, err = io.StringIO(), io.StringIO()

    with pytest.raises(CommandError, match="1 of 3 not replayed"):
        call_command(
            *("dead", "replay", "--all", "--topic", test_topic), stdout=out, stderr=err
        )

    assert out.getvalue().splitlines() == [f"{first} replayed", f"{last} replayed"]
    assert err.getvalue().startswith(f"{place} not replayed: ")


def test_a_letter_by_hand_without_a_task_is_discarded_by_its_place(
    test_topic: str, redis_client: redis.Redis
) -> None:
    one = by_hand(redis_client, test_topic, error="no ink")
    other = by_hand(redis_client, test_topic, error="no ink")

    code, words = refused("discard", one)
    said, _ = run("discard", one, "--topic", test_topic)
    rest, _ = run("discard", "--all", "--topic", test_topic)

    assert (code, "needs --topic" in words) == (2, True)
    assert (said, rest) == (f"{one} discarded\n", f"{other} discarded\n")
    assert redis_client.xlen(keys.dead_stream(test_topic)) == 0


@pytest.mark.parametrize("columns", ["80", "200"])
def test_an_id_by_hand_is_shown_as_it_is(
    test_topic: str,
    redis_client: redis.Redis,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    by_hand(redis_client, test_topic, id="[/x] \x1b[31m", error="no ink")
    out = Terminal()

    call_command("dead", "list", test_topic, stdout=out)

    assert r"[/x] \x1b[31m" in out.getvalue()
