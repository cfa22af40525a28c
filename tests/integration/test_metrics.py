"""`GET metrics`: what Prometheus reads, and who may."""

from __future__ import annotations

import itertools
import re

import pytest
import redis

import bus
from bus import agents, auditor, metrics
from tests.support.api import ROOT, api, problem
from tests.support.desk import Desk
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


def test_the_series_of_an_agent_end_with_it(
    test_topic: str, redis_client: redis.Redis
) -> None:
    told = {"slots": 4, "in_flight": 2, "done": 7, "failed": 1, "rss_bytes": 5_000}

    def register(name: str, ttl_s: float) -> None:
        record = {"agent_id": name, "agent_type": "t", "meta": {}, **told}
        agents.register(name, f"{name}#1", ttl_s, record)

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
