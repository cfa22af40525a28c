"""What Redis leaves half-way: what was done is told, and is on the trail."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import Client

import bus
from bus import errors, purges
from bus.models import AuditEntry
from dashboard import many
from tests.integration.test_dashboard_sending import form_of
from tests.support.api import api, problem
from tests.support.bulk import dead
from tests.support.pages import looked_at

pytestmark = pytest.mark.django_db
PART = "A part of what you asked for was done before"


def fails_after(calls: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, for so many times; then Redis is away."""
    left = iter(range(calls))

    def called(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise errors.BusUnavailable("gone")
        return call(*args, **options)

    return called


@pytest.fixture
def half_purged(test_topic: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of 5 letters; a purge puts 4 away, and then Redis is gone."""
    dead(test_topic, 5)
    monkeypatch.setattr(purges, "LETTERS", 2)
    monkeypatch.setattr(purges, "_put_away", fails_after(2, purges._put_away))
    return test_topic


def trail() -> tuple[str, str, dict[str, Any]]:
    [entry] = AuditEntry.objects.all()
    return entry.verb, entry.target, entry.detail


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_on_a_page(verb: str, half_purged: str, admin: Client) -> None:
    form = {"what": "dead", "name": half_purged}

    answer = admin.post(f"/topics/{half_purged}/{verb}", form)

    assert (answer.status_code, PART in looked_at(answer).text) == (503, True)
    did, target, detail = trail()
    assert (did, target) == (verb, half_purged)
    assert (detail["discarded"], detail["broke"]) == (4, "bus_unavailable")


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_over_http(verb: str, half_purged: str) -> None:
    client = api("admin")
    if verb == "purge":
        answer = client.post(f"topics/{half_purged}/purge", {"what": "dead"})
    else:
        answer = client.delete(f"topics/{half_purged}")

    assert problem(answer, 503, "bus_unavailable")["outcome"] == "unknown"
    assert trail()[:2] == (verb, half_purged)
    assert trail()[2]["discarded"] == 4


@pytest.mark.parametrize("verb", ["--purge=dead", "--delete"])
def test_in_a_shell(verb: str, half_purged: str) -> None:
    with pytest.raises(CommandError) as refusal:
        call_command("topics", half_purged, verb, "--yes")

    assert refusal.value.returncode == 69
    assert (trail()[1], trail()[2]["discarded"]) == (half_purged, 4)


def test_letters_of_a_failure(half_purged: str, admin: Client) -> None:
    [group] = bus.dead_groups(half_purged)

    answer = admin.post(f"/dead/groups/{group['fingerprint']}/discard")

    assert (answer.status_code, PART in looked_at(answer).text) == (503, True)
    assert trail()[2] == {"letters": 4, "broke": "bus_unavailable"}


def test_letters_that_were_chosen(half_purged: str, operator: Client) -> None:
    led = operator.post("/replays/new", {"topic": half_purged})

    answer = operator.post(f"{led['Location']}discard")

    assert (answer.status_code, PART in looked_at(answer).text) == (503, True)
    assert trail()[2]["letters"] == 4


@pytest.mark.parametrize("path", ["/tasks/cancel", "/tasks/cancel-matching"])
def test_tasks_that_are_cancelled(
    path: str, test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = bus.enqueue_many(test_topic, range(3))
    monkeypatch.setattr(many.bus, "cancel", fails_after(2, bus.cancel))
    ticked = [f"{test_topic} {each}" for each in ids]
    packed = f"waiting {test_topic} {' '.join(ids)}"
    form = {"task": ticked, "tasks": packed, "topic": test_topic}

    answer = operator.post(path, form)

    assert (answer.status_code, PART in looked_at(answer).text) == (503, True)
    told = AuditEntry.objects.filter(verb="cancel")
    assert sum(entry.detail.get("cancelled", 1) for entry in told) == 2


def test_a_copy_whose_original_is_cancelled_is_kept_to_be_sent_again(
    test_topic: str, operator: Client, redis_client: redis.Redis
) -> None:
    original = bus.enqueue_task(test_topic, 1)
    url = f"/topics/{test_topic}/new"
    page = operator.get(url, {"copy": original})
    form = {**form_of(page), "copy": original, "instead": "1", "task": '{"mine": 2}'}

    redis_client.config_set("maxmemory", 1)
    answer = operator.post(url, form)
    redis_client.config_set("maxmemory", 0)

    assert answer.status_code == 503
    assert "cancelled, the copy is not there yet" in looked_at(answer).text
    assert bus.get_task(original, test_topic).state == "cancelled"
    assert form_of(answer) == {**form_of(page), "task": '{"mine": 2}'}
    operator.post(url, form_of(answer))
    assert bus.get_task(form["task_id"], test_topic).payload == {"mine": 2}


def test_so_it_is_where_redis_went_away(
    test_topic: str,
    operator: Client,
    monkeypatch: pytest.MonkeyPatch,
    failure_simulator: Any,
) -> None:
    original = bus.enqueue_task(test_topic, 1)
    url, cancel = f"/topics/{test_topic}/new", bus.cancel
    page = operator.get(url, {"copy": original})
    form = {**form_of(page), "copy": original, "instead": "1", "task": '{"mine": 2}'}

    def cancelled(*args: Any) -> Any:
        state = cancel(*args)
        failure_simulator.unreachable()
        return state

    monkeypatch.setattr("dashboard.sending.bus.cancel", cancelled)
    answer = operator.post(url, form)

    assert answer.status_code == 503
    text = looked_at(answer).text
    assert "Redis does not answer. The task it replaces is cancelled" in text
    assert "redis://" not in text
    assert form_of(answer) == {**form_of(page), "task": '{"mine": 2}'}


def test_all_letters_of_a_topic_in_a_shell(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(test_topic, 3)
    monkeypatch.setattr(bus.decisions, "replay", fails_after(2, bus.decisions.replay))

    with pytest.raises(CommandError) as refusal:
        call_command(
            *("dead", "replay", "--all", "--topic", test_topic), stdout=io.StringIO()
        )

    assert refusal.value.returncode == 69
    assert trail()[2] == {"all": True, "count": 2}


def lost(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, whose answer nobody hears."""

    def called(*args: Any, **options: Any) -> Any:
        call(*args, **options)
        raise errors.OutcomeUnknown("no answer")

    return called


@pytest.mark.parametrize("door", ["page", "call", "command"])
def test_a_change_of_a_topic_that_nobody_heard_of_is_on_the_trail(
    test_topic: str, admin: Client, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    """A repeat finds all as it is wanted, and has nothing to tell."""
    bus.enqueue_task(test_topic, 1)
    monkeypatch.setattr(bus.topics, "_set", lost(bus.topics._set))

    if door == "page":
        admin.post(f"/topics/{test_topic}/pause")
    elif door == "call":
        api("admin").raw(f"topics/{test_topic}", b'{"paused":true}', method="PATCH")
    else:
        with pytest.raises(CommandError):
            call_command("topics", test_topic, "--pause")

    verb, target, detail = trail()
    assert (verb, target, detail["broke"]) == ("pause", test_topic, "outcome_unknown")
    assert bus.stats(test_topic)["paused"]


@pytest.mark.parametrize("door", ["page", "command"])
def test_a_bulk_replay_that_runs_is_on_the_trail_though_nobody_saw_it_begin(
    test_topic: str, admin: Client, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    dead(test_topic, 2)
    job = bus.replays.create(bus.replays.select(topics=[test_topic]), start=False)
    monkeypatch.setattr(
        bus.replays.parts, "halt", fails_after(0, bus.replays.parts.halt)
    )

    if door == "page":
        admin.post(f"/replays/{job.id}/start")
    else:
        with pytest.raises(CommandError):
            call_command("replays", "resume", job.id)

    _, target, detail = trail()
    assert (target, detail["state"]) == (job.id, "running")
    assert bus.replays.get(job.id).state == "running"
