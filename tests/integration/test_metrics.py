"""`GET metrics`: what Prometheus reads, and who may."""

from __future__ import annotations

import itertools
import re

import pytest
import redis

import bus
from bus import agents, auditor, errors, keys, metrics, rates, topics
from tests.support.api import ROOT, api, problem
from tests.support.desk import GROUP, Desk
from tests.support.town import SABOTAGE, build_town
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db

LINE = re.compile(r'([a-z_]+)\{([a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*)\} (-?[0-9.e+-]+)')


def values(text: str) -> dict[tuple[str, str], float]:
    """(name, labels) -> value; every line must be of the format."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            name, labels, value = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            found[name, labels] = float(value)
    return found


def test_they_tell_how_topics_and_agents_stand(
    test_topic: str, redis_client: redis.Redis
) -> None:
    build_town(redis_client, test_topic)
    bus.register_agent("hand", "shell")

    found = values(metrics.text())

    topic = f'topic="{test_topic}"'
    assert found["mesh_tasks", f'{topic},state="waiting"'] == 1
    assert found["mesh_tasks", f'{topic},state="delayed"'] == 2
    assert found["mesh_tasks", f'{topic},state="running"'] == 1
    assert found["mesh_tasks", f'{topic},state="dead"'] == 1
    assert found["mesh_tasks_total", f'{topic},event="accepted"'] == 6
    assert found["mesh_tasks_total", f'{topic},event="done"'] == 1
    assert found["mesh_ledger_drift", topic] == 0
    assert found["mesh_agents", 'state="live"'] == 1
    assert found["mesh_wait_seconds", f'{topic},quantile="0.99"'] > 0


def test_an_alarm_of_the_audit_is_among_them(
    test_topic: str, redis_client: redis.Redis
) -> None:
    town = build_town(redis_client, test_topic)
    SABOTAGE["a count too many"](town)
    SABOTAGE["a forgotten due time"](town)
    auditor.audit(test_topic)

    found = values(metrics.text())

    topic = f'topic="{test_topic}"'
    assert found["mesh_ledger_drift", topic] == 1
    assert found["mesh_tasks_total", f'{topic},event="repaired"'] == 1


def test_the_run_of_an_attempt_counts_also_when_another_follows(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_task(test_topic, 1)

    assert desk.fail(desk.one()) == "delayed"

    quantile = f'topic="{test_topic}",quantile="0.5"'
    assert values(metrics.text())["mesh_run_seconds", quantile] == 0.008


def test_what_is_restored_takes_nothing_off_a_counter(test_topic: str) -> None:
    """Prometheus takes whatever goes down for a counter that began anew."""
    desk = Desk(test_topic)
    discarded, restored = bus.enqueue_many(test_topic, range(2))
    desk.fail_all(*(desk.failure(item, final=True) for item in desk.claim(2)))
    for task_id in (discarded, restored):
        bus.discard(task_id, test_topic)
    before = values(metrics.text())

    bus.undo(restored, test_topic)

    after = values(metrics.text())
    counters = {key for key in before if key[0].endswith("_total")}
    assert counters and all(after[key] >= before[key] for key in counters)
    event = f'topic="{test_topic}",event="{{}}"'.format
    assert after["mesh_tasks_total", event("discarded")] == 2
    assert after["mesh_tasks_total", event("restored")] == 1
    assert after["mesh_ledger_drift", f'topic="{test_topic}"'] == 0


def told_elsewhere(topic: str) -> dict[tuple[str, str], float]:
    """What metrics say of a topic, as pages and calls have it."""
    stats, span = topics.stats(topic), rates.of_topics([topic], 15)[topic]
    label = f'topic="{topic}"'
    found: dict[tuple[str, str], float | None] = {
        ("mesh_ledger_drift", label): stats["ledger"]["drift"],
        ("mesh_ledger_settled", label): stats["settled"],
        ("mesh_unmended", label): stats["unmended"],
        ("mesh_paused", label): stats["paused"],
        ("mesh_readers", label): stats["readers"],
    }
    for state in ("waiting", "delayed", "running", "dead"):
        found["mesh_tasks", f'{label},state="{state}"'] = stats[state]
    for event in (
        *("accepted", "adopted", "repeated", "done", "retried", "died", "lost"),
        *("replayed", "restored", "cancelled", "orphans", "repaired"),
    ):
        found["mesh_tasks_total", f'{label},event="{event}"'] = stats[event]
    ever = stats["discarded"] + stats["restored"]
    found["mesh_tasks_total", f'{label},event="discarded"'] = ever
    for name, ms_of in (("wait", span.wait_ms), ("run", span.run_ms)):
        for share in (0.5, 0.99):
            ms = ms_of(share)
            key = f"mesh_{name}_seconds", f'{label},quantile="{share}"'
            found[key] = None if ms is None else ms / 1000
    return {key: value for key, value in found.items() if value is not None}


def same_as_elsewhere(topic: str) -> float:
    """Metrics agree with the rest of the mesh; returns the age of the oldest task."""
    found = values(metrics.text())
    label = f'topic="{topic}"'
    mine = {key: value for key, value in found.items() if label in key[1]}
    oldest_s = mine.pop(("mesh_oldest_waiting_seconds", label))
    assert mine == told_elsewhere(topic)
    return oldest_s


@pytest.mark.parametrize("sabotage", [None, *SABOTAGE])
def test_they_tell_of_a_topic_what_the_rest_of_the_mesh_does(
    sabotage: str | None, test_topic: str, redis_client: redis.Redis
) -> None:
    town = build_town(redis_client, test_topic)
    if sabotage:
        SABOTAGE[sabotage](town)

    same_as_elsewhere(test_topic)


def test_of_a_topic_where_nothing_happens_nobody_waited(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=7)

    assert same_as_elsewhere(test_topic) == 0


def test_a_paused_topic_an_agent_by_hand_and_a_task_given_back_are_told(
    test_topic: str,
) -> None:
    bus.enqueue_many(test_topic, range(3))
    desk = Desk(test_topic)
    desk.release(*desk.claim(2))
    bus.read_group(test_topic, GROUP, "by-hand", block_ms=0)
    bus.pause(test_topic)
    wait_until(lambda: (topics.stats(test_topic)["oldest_s"] or 0) > 0)

    assert same_as_elsewhere(test_topic) > 0


def test_what_somebody_wrote_into_counters_and_audit_counts_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    build_town(redis_client, test_topic)
    odd = {
        "done": "many",
        "lost": "1e3",
        "died": "-2",
        "orphans": "9" * 16,
        "live": "7",
    }
    redis_client.hset(keys.named("counters", test_topic), mapping=odd)
    before = told_elsewhere(test_topic)
    redis_client.hset(keys.named("audit", test_topic), "live.told", "something")

    found = values(metrics.text())

    assert {key: found[key] for key in before} == before


@pytest.mark.parametrize("rows", [1, 14, 15, 40])
def test_quantiles_are_of_the_last_quarter_of_an_hour_only(
    rows: int, test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    now = int(redis_client.time()[0]) // 60
    for ago in range(1, rows + 1):
        row = f"{now - ago} d=1 w{ago}=3 r{min(2 * ago, 33)}=1 w=1 q3=5"
        redis_client.hset(ring := keys.named("minutes", test_topic),
                          str((now - ago) % 180), row)  # fmt: skip
    redis_client.hset(ring, str((now - 3) % 180), f"{now - 183} w20=999 r20=999")
    redis_client.hset(ring, str((now - 4) % 180), "by hand")

    # A minute may end between the two looks.
    wait_until(
        lambda: values(metrics.text()).items() >= told_elsewhere(test_topic).items()
    )


def test_a_key_of_another_type_is_named(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    redis_client.set(keys.named("delayed", test_topic), "by hand")

    with pytest.raises(
        errors.BusError, match=re.escape(f"mesh:{{{test_topic}}}:delayed")
    ):
        metrics.text()


def test_a_server_that_forgot_its_scripts_is_told_them_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    topic = f"{test_topic}:b"
    for name in (test_topic, topic):
        bus.enqueue_task(name, 1)
    redis_client.script_flush()

    found = values(metrics.text())

    assert found["mesh_tasks", f'topic="{topic}",state="waiting"'] == 1
    assert found["mesh_tasks", f'topic="{test_topic}",state="waiting"'] == 1


def test_the_series_of_an_agent_end_with_it(
    test_topic: str, redis_client: redis.Redis
) -> None:
    told = {"slots": 4, "in_flight": 2, "done": 7, "failed": 1, "rss_bytes": 5_000}

    def register(name: str, ttl_s: float) -> None:
        record = {"agent_id": name, "agent_type": "t", "meta": {}, **told}
        agents.register(name, f"{name}#00000001", ttl_s, record)

    for name in ("stays", "leaves", "expires"):
        register(name, 60)
    bus.register_agent("by-hand", "shell")
    before = values(metrics.text())

    bus.deregister_agent("leaves")
    register("expires", 0.001)
    wait_until(lambda: bus.get_agent("expires")["state"] == "gone")
    after = values(metrics.text())

    def of(found: dict[tuple[str, str], float], agent: str) -> dict[str, float]:
        mark = f'agent="{agent}"'
        return {
            name + labels.removeprefix(mark): value
            for (name, labels), value in found.items()
            if labels.startswith(mark)
        }

    assert of(before, "leaves") == of(before, "stays") == of(after, "stays")
    assert of(before, "stays") == {
        "mesh_agent_slots": 4,
        "mesh_agent_in_flight": 2,
        'mesh_agent_attempts_total,outcome="done"': 7,
        'mesh_agent_attempts_total,outcome="failed"': 1,
        "mesh_agent_resident_bytes": 5_000,
    }
    assert of(before, "by-hand") == {}, "it told nothing"
    assert of(after, "leaves") == of(after, "expires") == {}
    assert after["mesh_agents", 'state="gone"'] == 2


def test_the_series_of_a_topic_end_with_it(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    before = metrics.text()

    bus.delete_topic(test_topic)

    assert test_topic in before
    assert test_topic not in metrics.text()


def test_each_metric_is_told_once_with_kind_and_help(test_topic: str) -> None:
    for name in (test_topic, f"{test_topic}:b"):
        Desk(name)

    lines = metrics.text().splitlines()

    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert kinds == helps
    assert len(kinds) == len(set(kinds))
    names = [name for name, _ in values("\n".join(lines))]
    assert set(names) <= set(kinds)
    # All lines of one metric stand together.
    assert [n for n, _ in itertools.groupby(names)] == [n for n in kinds if n in names]


def test_on_this_machine_nobody_has_to_sign_in(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    response = api(None).get("metrics")

    assert response.status_code == 200
    assert response["Content-Type"] == metrics.CONTENT_TYPE
    assert response["Cache-Control"] == "no-store"
    assert f'mesh_tasks{{topic="{test_topic}",state="waiting"}} 1' in (
        response.content.decode()
    )


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "unix:"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
    ],
)
def test_elsewhere_a_token_is_needed(
    test_topic: str, elsewhere: dict[str, str]
) -> None:
    client = api(None).client

    problem(client.get(f"{ROOT}/metrics", **elsewhere), 401, "not_authenticated")

    viewer = api("viewer")
    told = viewer.client.get(f"{ROOT}/metrics", headers=viewer.headers, **elsewhere)
    assert told.status_code == 200


def test_a_token_bound_to_topics_hears_of_these_only(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.enqueue_task("other", 1)

    text = api("viewer", ("other",)).get("metrics").content.decode()

    assert "other" in text
    assert test_topic not in text


def test_an_agent_may_read_them_on_this_machine_only(test_topic: str) -> None:
    client = api("agent")
    there = {"REMOTE_ADDR": "192.0.2.7"}

    far = client.client.get(f"{ROOT}/metrics", headers=client.headers, **there)

    problem(far, 403, "permission_denied")
    assert client.get("metrics").status_code == 200
