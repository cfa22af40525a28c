"""Letters that somebody wrote by hand: opened, replayed and put away like others."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import alike, auditor, keys, models, purges
from tests.support.api import a_dead_one, api, problem
from tests.support.pages import signed_in

pytestmark = pytest.mark.django_db

SHAPES: dict[str, tuple[dict[str, str], Any]] = {
    "payload": ({"payload": '{"a":1}'}, {"a": 1}),
    "payload with one inside": ({"payload": '{"payload":1}'}, {"payload": 1}),
    "payload that is no JSON": ({"payload": "h\u00e9, no JSON"}, "h\u00e9, no JSON"),
    "fields of its own": ({"to": "ann", "error": "no"}, {"to": "ann"}),
    "an empty json": ({"json": "", "payload": "7"}, 7),
    "json and payload": ({"json": '{"payload":1}', "payload": "2"}, 1),
}


@pytest.fixture
def letter(
    test_topic: str, redis_client: redis.Redis, request: pytest.FixtureRequest
) -> tuple[str, Any]:
    """The task id of a letter in this shape that the audit has seen; its payload."""
    fields, payload = SHAPES[request.param]
    task_id = str(uuid.uuid4())
    both: Any = {"id": task_id, **fields}
    redis_client.xadd(keys.dead_stream(test_topic), both)
    audited(test_topic)
    return task_id, payload


def audited(topic: str) -> None:
    bus.create_consumer_group(topic, "hands")
    auditor.audit(topic)


every_shape = pytest.mark.parametrize("letter", SHAPES, indirect=True)


@every_shape
def test_what_it_holds_is_shown_and_run(
    test_topic: str, letter: tuple[str, Any]
) -> None:
    task_id, payload = letter
    shown = api().get(f"dead/{task_id}?topic={test_topic}").json()

    replayed = api().post(f"dead/{task_id}/replay?topic={test_topic}")

    assert (shown["task"], replayed.status_code) == (payload, 200)
    [(_, fields)] = bus.read_group(test_topic, "hands", "me", block_ms=0)
    assert (fields["id"], fields["payload"]) == (task_id, payload)


@every_shape
def test_it_comes_back_from_the_bin_as_it_was(
    test_topic: str, letter: tuple[str, Any]
) -> None:
    task_id, payload = letter
    before = bus.get_dead(task_id, test_topic)

    for _ in range(2):
        bus.discard(task_id, test_topic)
        bus.undo(task_id, test_topic)

    after = bus.get_dead(task_id, test_topic)
    assert (before.payload, after.payload) == (payload, payload)
    assert after.died_at == before.died_at
    assert json.dumps(after.error) == json.dumps(before.error)
    assert bus.dead_groups(test_topic) == []


@pytest.mark.usefixtures("nothing_known")
@pytest.mark.parametrize("name", ["x", "", None])
def test_one_without_a_task_is_listed_without_a_link_and_can_be_put_away(
    test_topic: str, redis_client: redis.Redis, name: str | None
) -> None:
    fields: Any = {"json": "1"} if name is None else {"id": name, "json": "1"}
    entry_id = str(redis_client.xadd(keys.dead_stream(test_topic), fields))
    audited(test_topic)
    operator = signed_in("operator")
    ticked = {"letter": f"{test_topic} {entry_id}", "next": "/dead/"}

    page = operator.get("/dead/?error=unknown").content.decode()
    asked = operator.post("/dead/discard", ticked).content.decode()
    operator.post("/dead/discard", {**ticked, "sure": "1"})

    assert f'value="{ticked["letter"]}"' in page
    assert 'href="/dead/x' not in page + asked
    assert "gone for good" in asked
    assert bus.list_dead(test_topic) == []
    assert bus.stats(test_topic)["ledger"]["drift"] == 0
    entry = models.AuditEntry.objects.get(verb="discard")
    assert (entry.topic, entry.target) == (test_topic, entry_id)
    operator.post("/dead/discard", {**ticked, "sure": "1"})
    assert "1 were gone before" in operator.get("/dead/").content.decode()


def test_it_is_put_away_over_http_by_its_entry_id(
    test_topic: str, redis_client: redis.Redis
) -> None:
    fields: Any = {"id": "x", "json": "1"}
    entry_id = str(redis_client.xadd(keys.dead_stream(test_topic), fields))
    audited(test_topic)
    client, path = api(), f"dead/{entry_id}?topic={test_topic}"

    problem(client.delete(f"dead/{entry_id}"), 422, "invalid_option")
    gone = client.delete(path)

    told = {"id": "x", "topic": test_topic, "state": "discarded"}
    assert (gone.status_code, gone.json()) == (200, told)
    problem(client.delete(path), 404, "dead_letter_not_found")
    assert bus.list_dead(test_topic) == []
    assert models.AuditEntry.objects.get(verb="discard").target == entry_id


@pytest.mark.parametrize("fields", [{"id": "x", "json": "1"}, None])
def test_one_that_somebody_else_puts_away_meanwhile_is_told_as_gone(
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    fields: Any,
) -> None:
    if fields is None:
        entry_id = bus.get_dead(a_dead_one(api(), test_topic)).entry_id
    else:
        entry_id = str(redis_client.xadd(keys.dead_stream(test_topic), fields))
    read = alike.read

    def first_seen_then_gone(places: Any) -> Any:
        found = read(places)
        redis_client.xdel(keys.dead_stream(test_topic), entry_id)
        return found

    monkeypatch.setattr(alike, "read", first_seen_then_gone)

    with pytest.raises(bus.DeadLetterNotFound):
        purges.discard_entry(test_topic, entry_id)


def test_a_letter_of_a_task_that_is_put_away_by_its_entry_can_come_back(
    test_topic: str,
) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)
    entry_id = bus.get_dead(task_id).entry_id

    client.delete(f"dead/{entry_id}?topic={test_topic}")

    assert bus.get_task(task_id).state == "discarded"
    bus.undo(task_id)
    assert bus.get_task(task_id).state == "dead"


@pytest.mark.usefixtures("nothing_known")
def test_one_without_a_task_does_not_keep_others_from_a_replay(
    test_topic: str, redis_client: redis.Redis
) -> None:
    fields: Any = {"id": "x", "json": "1"}
    nameless = str(redis_client.xadd(keys.dead_stream(test_topic), fields))
    named = {"id": str(uuid.uuid4()), "json": "2"}
    redis_client.xadd(keys.dead_stream(test_topic), {**named})
    audited(test_topic)
    rows = [f"{test_topic} {each}" for each in (nameless, named["id"])]
    operator = signed_in("operator")

    both = operator.post("/replays/new", {"ticked": "1", "letter": rows})
    none = operator.post("/replays/new", {"ticked": "1", "letter": rows[:1]})

    assert (both.status_code, none.status_code) == (303, 422)
    assert "tick the letters" in none.content.decode().lower()


def test_a_fingerprint_that_is_no_part_of_a_path_leads_to_the_topics_letters(
    test_topic: str, redis_client: redis.Redis, viewer: Client
) -> None:
    task_id, both = str(uuid.uuid4()), {"json": "1", "error": '{"type": "X"}'}
    fields: Any = {"id": task_id, "fp": "a/b", **both}
    redis_client.xadd(keys.dead_stream(test_topic), fields)
    audited(test_topic)

    for path in ("/", "/dead/", f"/topics/{test_topic}/", f"/dead/{task_id}/"):
        page = viewer.get(path)
        assert page.status_code == 200, path
        assert f'href="/dead/?topic={test_topic}"' in page.content.decode(), path


@pytest.mark.parametrize("put_away", [bus.discard, purges.put_away, None])
def test_one_too_wide_for_the_bin_is_discarded_for_good(
    test_topic: str, redis_client: redis.Redis, put_away: Any
) -> None:
    """One call writes at most so many fields."""
    task_id = str(uuid.uuid4())
    wide: Any = {"id": task_id, **{f"field {n}": n for n in range(4_500)}}
    redis_client.xadd(keys.dead_stream(test_topic), wide)
    audited(test_topic)
    assert bus.get_dead(task_id, test_topic).payload["field 7"] == "7"

    if put_away is bus.discard:
        bus.discard(task_id, test_topic)
    elif put_away:
        put_away(test_topic, task_id)
    else:
        assert bus.purge_topic(test_topic, "dead")["discarded"] == 1

    standing = bus.stats(test_topic)
    assert (standing["dead"], standing["ledger"]["drift"]) == (0, 0)
    row = bus.get_task(task_id, test_topic)
    assert (row.state, row.payload["field 7"]) == ("discarded", "7")
    with pytest.raises(bus.DeadLetterNotFound, match="nothing to undo"):
        bus.undo(task_id, test_topic)
