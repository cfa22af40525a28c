"""The short way of `enqueue` does what its long way does, or leaves it to that."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest
import redis

import bus
from bus import keys, scripts
from bus.scripts import Script
from tests.support.desk import Desk

SHORT = scripts.SCRIPTS["enqueue"]
SEEN = ("tasks_stream", "tasks", "done", "dead_index", "delayed", "parked", "counters")


def long_only() -> Script:
    """The script without its short way."""
    text = SHORT.text.replace("if ARGV[4] == '' then", "if false then")
    assert text != SHORT.text
    return replace(SHORT, text=text, sha=hashlib.sha1(text.encode()).hexdigest())


def ask(script: Script, client: redis.Redis, topic: str, args: list[Any]) -> Any:
    names = [keys.named(word, topic) for word in script.names]
    return client.eval(script.text, len(names), *names, *args)


def task(number: int, text: str = "1", due: str = "", options: str = "") -> list[str]:
    return [f"0198c0de-0000-7000-8000-{number:012d}", due, options, text]


def kept(client: redis.Redis, topic: str) -> dict[str, Any]:
    """What stands in the topic, without the clock in entry ids."""
    found: dict[str, Any] = {}
    for name in SEEN:
        key = keys.named(name, topic)
        kind: Any = client.type(key)
        if kind == "hash":
            found[name] = client.hgetall(key)
        elif kind == "zset":
            found[name] = len(client.zrange(key, 0, -1))  # type: ignore[arg-type]
        elif kind == "stream":
            found[name] = [fields for _, fields in client.xrange(key)]  # type: ignore[union-attr]
    found["dead_index"] = sorted(found.get("dead_index", {}))
    records = found.get("tasks", {})
    found["tasks"] = {i: text[text.index("|") :] for i, text in records.items()}
    parked = found.get("parked", {})
    found["parked"] = {i: text.partition("\n")[2] for i, text in parked.items()}
    return found


def said(answer: Any) -> Any:
    """What is said of one task, without the clock in it."""
    if isinstance(answer, str):
        return "sent"
    if isinstance(answer, list) and answer[0] in (5, 6):
        return answer[0]
    return answer


@pytest.mark.parametrize("seed", range(8))
def test_both_ways_answer_and_write_the_same(
    redis_client: redis.Redis, test_topic: str, seed: int
) -> None:
    """Random calls: new and known ids, twice in one call, bounds, options, delays."""
    dice = random.Random(seed)
    one, two = test_topic, f"{test_topic}-long"
    desks = [Desk(one), Desk(two)]
    ways = [(SHORT, one), (long_only(), two)]
    for _ in range(40):
        args: list[Any] = [1_000, 1_000, dice.choice(["", "", "", 5]), ""]
        for _ in range(dice.randint(1, 4)):
            late = dice.random() < 0.1
            args += task(
                dice.randint(1, 60),
                dice.choice(["1", "2"]),
                "+60000" if late else "",
                dice.choice(["", "m=3"]),
            )
        answers = [
            [said(each) for each in ask(script, redis_client, topic, args)]
            for script, topic in ways
        ]
        assert answers[0] == answers[1]
        ends = dice.random()
        for desk in desks if ends < 0.4 else []:
            for item in desk.claim(2):
                if ends < 0.3:
                    desk.complete(item)
                else:
                    desk.fail(item, final=True)
    assert kept(redis_client, one) == kept(redis_client, two)
    assert [bus.stats(t)["ledger"]["drift"] for t in (one, two)] == [0, 0]
    assert bus.stats(one)["accepted"] == bus.stats(two)["accepted"] > 0


def test_a_call_in_a_minute_that_has_counts_takes_the_short_way(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Otherwise the comparison above compares the long way with itself."""
    cut = SHORT.text.index("-- SHARED from here on")
    text = SHORT.text[:cut] + "return redis.error_reply('the long way')"
    script = replace(SHORT, text=text)
    ask(SHORT, redis_client, test_topic, [1_000, 1_000, "", "", *task(1)])
    minutes = keys.named("minutes", test_topic)
    minute: Any = redis_client.hget(minutes, "last")

    try:
        reply = ask(script, redis_client, test_topic, [1_000, 1_000, "", "", *task(2)])
    except redis.ResponseError:
        now: Any = redis_client.time()
        assert str(now[0] // 60) != minute, "it took the long way within one minute"
    else:
        assert len(reply) == 1 and "-" in reply[0]
