"""Of topics of others a token that is bound to its own hears nothing, not a name."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import pytest
import redis

import bus
from bus import agents, keys, replays
from bus.api.views import health
from bus.api.views.docs import description
from bus.bulk.pace import Pace
from bus.bulk.selection import checked
from tests.support.api import ROOT, a_dead_one, api, finish, problem, send

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]
BOUND = "odd"  # what the token's topics begin with
OWN, SLIP = "odd-shop", "oddyssey-of-another-tenant"
THEIRS = "odyssey-of-another-tenant"  # what is suggested first for the slip
FILES = ({}, {"format": "csv"}, {"format": "jsonl"})


@pytest.fixture
def mesh(redis_client: redis.Redis) -> dict[str, list[str]]:
    """Two tenants with something of everything, and values for what is in paths."""
    boss, ids = api("admin"), []
    for topic in (OWN, THEIRS):
        send(boss, topic)
        finish(topic)
        ids += [a_dead_one(boss, topic), a_dead_one(boss, topic)]
        boss.post(f"dead/{ids[-1]}/replay")
        ids += [send(boss, topic), send(boss, topic, delay_s=3600)]
        boss.post(f"tasks/{ids[-1]}/cancel")
        bus.pause(topic)
        bus.resume(topic)
    shares = {
        name: {"slots": 1, "in_flight": 0, "run_s": 1.0} for name in (OWN, THEIRS)
    }
    record = {
        **agents.new_record("both-1", "test", None),
        **{"topics": [OWN, THEIRS], "per_topic": shares, "slots": 2},
    }
    agents.register("both-1", "both-1", 600, record)
    made = [
        boss.post("tokens", {"name": topic, "role": "viewer", "topics": [topic]}).json()
        for topic in (OWN, THEIRS)
    ]
    jobs = []
    for named in ([OWN], [THEIRS], [OWN, THEIRS]):
        pace, chosen = Pace(), checked(topics=named)
        job, _ = replays.create_once(None, chosen, pace, "boss", start=False)
        jobs.append(job.id)
    [mine] = (each["id"] for each in boss.get("dead", topic=THEIRS).json()["dead"])
    boss.delete(f"dead/{mine}")
    # Of which only one has letters any more; it is on the audit trail as well.
    asked = {"topics": [OWN, THEIRS], "start": False}
    jobs.append(boss.post("replays", asked).json()["id"])
    return {
        "topic": [OWN, SLIP],
        "task_id": ids,
        "agent_id": ["both-1"],
        "job_id": jobs,
        "key": [each["key"] for each in made],
    }


def paths(values: dict[str, list[str]]) -> list[str]:
    """Every path that is read, with each of the values for what is in it."""
    found = []
    for path, calls in description()["paths"].items():
        if "get" not in calls or path.endswith("/stream"):
            continue
        name = re.search(r"{(\w+)}", path)
        told = path.removeprefix(f"{ROOT}/")
        for value in values[name[1]] if name else [""]:
            found.append(told.replace(f"{{{name[1]}}}", value) if name else told)
    return found


def test_no_answer_names_a_topic_of_others(mesh: dict[str, list[str]]) -> None:
    bound, whole = api("admin", (BOUND,)), api("admin")
    told = set()

    for path in paths(mesh):
        wants = {"topic": OWN} if path in ("tasks", "results") else {}
        for more in FILES if path in ("dead", "audit", "results") else FILES[:1]:
            answer = bound.get(path, **wants, **more)
            assert THEIRS not in _text(answer), (path, more)
        if THEIRS in _text(whole.get(path)):
            told.add(path.partition("/")[0])

    # Those who reach it are told, so that the looks above were worth something.
    assert told >= {"agents", "audit", "dead", "health", "metrics", "replays", "tasks",
                    "tokens", "topics"}  # fmt: skip


def _text(answer: Any) -> str:
    parts = answer.streaming_content if answer.streaming else [answer.content]
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "replays", {"topics": [SLIP], "dry_run": True}),
        ("POST", "replays", {"topics": [SLIP]}),
        ("POST", "replays", {"error": "x", "dry_run": True}),
        ("POST", "agents", {"agent_id": "both-1", "agent_type": "x"}),
        ("POST", "agents/both-1/drain", {}),
        ("POST", "agents/both-1/heartbeat", {}),
        ("DELETE", "agents/both-1", {}),
        ("POST", f"topics/{SLIP}/claim", {"agent_id": "both-1"}),
        ("POST", f"topics/{SLIP}/purge", {}),
        ("POST", f"topics/{SLIP}/settle", {}),
        ("PATCH", f"topics/{SLIP}", {"paused": True}),
        ("DELETE", f"topics/{SLIP}", {}),
    ],
)
def test_no_other_answer_names_a_topic_of_others(
    mesh: dict[str, list[str]], method: str, path: str, body: Any
) -> None:
    bound = api("admin", (BOUND,))

    answer = bound.raw(path, json.dumps(body).encode(), method=method)

    assert answer.status_code < 500 and THEIRS not in _text(answer)


def test_a_topic_that_goes_while_it_is_emptied_tells_of_no_others(
    mesh: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls at once find out: the one deletes what the other has looked for."""
    bound = api("admin", (BOUND,))
    purge = bus.purge_topic

    def late(topic: str, what: str) -> dict[str, int]:
        bus.delete_topic(topic, force=True)
        return purge(topic, what)

    monkeypatch.setattr(bus, "purge_topic", late)
    gone = problem(bound.post(f"topics/{OWN}/purge"), 404, "topic_not_found")

    assert THEIRS not in gone["detail"]


def test_a_damaged_key_of_others_is_not_named(
    mesh: dict[str, list[str]], redis_client: redis.Redis
) -> None:
    key = keys.named("tasks", THEIRS)
    redis_client.set(key, "by hand")
    health.forget()
    bound, whole, nobody = api("admin", (BOUND,)), api("admin"), api(None)
    unknown = str(UUID(int=7))

    for path in (f"tasks/{unknown}", f"dead/{unknown}", "dead", "topics", "health"):
        assert THEIRS not in _text(bound.get(path)), path
    assert THEIRS not in _text(nobody.get("health"))

    assert key in problem(whole.get("topics"), 503, "damaged_key")["detail"]
    health.forget()
