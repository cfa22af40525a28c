"""A ledger that is off is settled by a person, and says so for ever."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from bus import auditor, errors, health, keys, messages, metrics, scripts
from tests.integration.test_topics_command import Keyboard
from tests.support.keyspace import wounds
from tests.support.town import Town, build_town

pytestmark = pytest.mark.django_db  # what the command does is on the audit trail


@pytest.fixture
def town(redis_client: redis.Redis, test_topic: str) -> Town:
    return build_town(redis_client, test_topic)


def off_by(town: Town, drift: int) -> None:
    """Somebody wrote into the counters."""
    town.client.hincrby(town.key("counters"), "accepted", drift)


def settlements(town: Town) -> list[str]:
    rows: Any = town.client.xrange(town.key("events"))
    return [f["detail"] for _, f in rows if f["event"] == "settled"]


def topics(*args: str) -> str:
    """What the command writes."""
    out = io.StringIO()
    call_command("topics", *args, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("drift", [1, 1_000, -2])
def test_it_balances_and_says_with_what(town: Town, drift: int) -> None:
    off_by(town, drift)
    before = bus.stats(town.topic)

    settled = bus.settle_ledger(town.topic)

    after = bus.stats(town.topic)
    assert before["ledger"]["drift"] == settled == after["settled"] == drift
    kept = {"came", "live", "ended"}
    assert {n: after["ledger"][n] for n in kept} == {
        n: before["ledger"][n] for n in kept
    }
    assert (after["ledger"]["settled"], after["ledger"]["drift"]) == (drift, 0)
    assert messages.iso_ms(after["settled_at"]) is not None
    assert settlements(town) == [f"{drift:+}"]
    assert wounds(town.client, town.topic) == []


def test_it_can_be_settled_again_when_it_is_off_again(town: Town) -> None:
    for drift in (3, -1):
        off_by(town, drift)
        bus.settle_ledger(town.topic)

    assert bus.stats(town.topic)["settled"] == 2
    assert settlements(town) == ["+3", "-1"]


def test_what_the_audit_can_still_find_is_not_settled(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Else the tasks would be one too many, and dropped as copies by hand."""
    ids = bus.enqueue_many(test_topic, range(5))
    redis_client.delete(keys.named("tasks", test_topic))
    assert bus.stats(test_topic)["ledger"]["drift"] == 5

    assert bus.settle_ledger(test_topic) == 0

    assert {bus.get_task(each, test_topic).state for each in ids} == {"waiting"}
    assert bus.stats(test_topic)["settled"] == 0


def test_a_ledger_that_balances_is_left_alone(town: Town) -> None:
    before = {name: town.client.dump(town.key(name)) for name in ("counters", "events")}

    assert bus.settle_ledger(town.topic) == 0

    assert before == {name: town.client.dump(town.key(name)) for name in before}


def test_a_repeated_request_settles_once(town: Town) -> None:
    off_by(town, 3)

    replies = [scripts.run("settle", town.topic, [3, "mark"]) for _ in range(2)]

    assert [list(map(int, reply)) for reply in replies] == [[1, 3], [1, 3]]
    assert bus.stats(town.topic)["settled"] == 3


def test_what_changes_meanwhile_is_looked_at_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_by(town, 3)
    real, looks = auditor.audit, []

    def audit(topic: str) -> auditor.Findings:
        looks.append(topic)
        found = real(topic)
        if len(looks) == 1:
            off_by(town, 1)
        return found

    monkeypatch.setattr(auditor, "audit", audit)

    assert bus.settle_ledger(town.topic) == 4
    assert len(looks) == 2


def test_a_ledger_that_goes_on_changing_is_not_settled(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_by(town, 3)
    monkeypatch.setattr(auditor, "audit", lambda topic: auditor.Findings(drift=1))

    with pytest.raises(errors.Conflict, match="somebody writes into its keys"):
        bus.settle_ledger(town.topic)

    assert bus.stats(town.topic)["settled"] == 0


def in_two_states(town: Town) -> None:
    row = {"id": town.running, "json": '{"by": "hand"}'}
    ms, seq = str(town.client.xadd(town.key("results"), row)).split("-")  # type: ignore[arg-type]
    score = int(ms) * 4096 + int(seq)
    town.client.zadd(town.key("done"), {town.running: score})


def test_a_task_in_two_states_is_decided_first(town: Town) -> None:
    in_two_states(town)
    off_by(town, 1)

    with pytest.raises(errors.Conflict, match=f"live and done {town.running}"):
        bus.settle_ledger(town.topic)

    assert bus.stats(town.topic)["ledger"]["drift"] == 1


@pytest.mark.parametrize(
    ("topic", "error"), [("nobody", errors.TopicNotFound), ("No!", errors.InvalidName)]
)
def test_a_topic_nobody_knows_has_no_ledger(
    redis_client: redis.Redis, topic: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bus.settle_ledger(topic)


def test_its_twin_settles_too(town: Town) -> None:
    off_by(town, 2)

    assert asyncio.run(bus.asettle_ledger(town.topic)) == 2


def test_the_alarm_ends_with_it(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    off_by(town, 3)
    caplog.set_level(logging.WARNING)

    bus.settle_ledger(town.topic)
    auditor.audit(town.topic)

    said = [r.getMessage() for r in caplog.records if "ledger" in r.getMessage()]
    assert said == [
        f"{town.topic}: the ledger is off by +3",
        f"{town.topic}: the ledger was off by +3 and is settled",
    ]


# --- where it is shown


def check(topic: str) -> health.Check:
    [found] = [c for c in health.checks() if c.name == f"topic {topic}"]
    return found


def test_doctor_names_the_command_and_shows_the_sum_afterwards(town: Town) -> None:
    bus.pause(town.topic)  # or that nobody serves it is told
    off_by(town, 3)

    before = check(town.topic)
    bus.settle_ledger(town.topic)
    after = check(town.topic)

    assert (before.status, before.word) == ("bad", "drift")
    assert f"manage.py topics {town.topic} --settle" in before.hint
    assert after.status == "ok"
    ledger = bus.stats(town.topic)["ledger"]
    sum_of = f"{ledger['live']:,} live + {ledger['ended']:,} ended +3 settled"
    assert sum_of in after.says


def test_metrics_have_it(town: Town) -> None:
    off_by(town, -2)
    bus.settle_ledger(town.topic)

    lines = metrics.text().splitlines()

    assert f'mesh_ledger_settled{{topic="{town.topic}"}} -2' in lines
    assert f'mesh_ledger_drift{{topic="{town.topic}"}} 0' in lines


# --- the command


def test_the_audit_command_fails_where_the_ledger_is_off(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    off_by(town, 3)
    out = io.StringIO()

    with pytest.raises(CommandError, match=r"off by \+3.*--settle") as refusal:
        call_command("topics", town.topic, "--audit", stdout=out)

    assert refusal.value.returncode == 1
    assert "drift +3" in out.getvalue()
    assert "every task is where its record says" not in out.getvalue()


def test_the_audit_command_is_content_with_a_whole_topic(town: Town) -> None:
    assert "every task is where its record says" in topics(town.topic, "--audit")


def test_the_command_settles_when_it_is_told_twice(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    off_by(town, 3)
    with pytest.raises(CommandError, match=r"off by \+3, add --yes"):
        topics(town.topic, "--settle")
    monkeypatch.setattr("sys.stdin", Keyboard("another\n"))
    with pytest.raises(CommandError, match="nothing was done"):
        topics(town.topic, "--settle")
    assert bus.stats(town.topic)["settled"] == 0

    said = topics(town.topic, "--settle", "--yes")

    assert said == f"the ledger of {town.topic} is settled: it was off by +3\n"
    assert "balanced" in topics(town.topic) and "+3 settled" in topics(town.topic)


def test_the_command_asks_nothing_where_nothing_is_off(town: Town) -> None:
    said = topics(town.topic, "--settle")

    assert said == f"the ledger of {town.topic} is not off: it balances\n"


@pytest.mark.parametrize("args", [["--settle"], ["mail", "--settle", "--purge"]])
def test_the_command_is_refused_without_a_topic_or_beside_another(
    args: list[str],
) -> None:
    with pytest.raises(CommandError):
        topics(*args)


def test_the_command_says_what_is_to_be_decided_first(town: Town) -> None:
    in_two_states(town)
    off_by(town, 1)

    with pytest.raises(CommandError, match="decide which is true"):
        topics(town.topic, "--settle", "--yes")
