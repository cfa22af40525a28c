"""Pages of the dashboard: for whom they open, what they show, what they never do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import agents as agents_room
from bus import fitness, keys
from dashboard import queries
from tests.support import agents, work
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("nothing_known"),
]

ROOT = Path(__file__).resolve().parent.parent.parent
UNKNOWN = "0198c0de-0000-7000-8000-000000000000"
NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
LISTS = ["/", "/topics/", "/tasks/", "/results/", "/agents/", "/dead/"]


def dead_task(topic: str, payload: Any, error: str = "no ink") -> str:
    """The id of a task that an agent by hand moved to dead."""
    task_id = bus.enqueue_task(topic, payload)
    [(entry_id, fields)] = bus.read_group(topic, "hands", "me", block_ms=0)
    bus.move_to_dead(topic, entry_id, {"error": error, "sent": fields["payload"]})
    return task_id


def group_of(topic: str) -> str:
    [group] = bus.dead_groups(topic)
    return str(group["fingerprint"])


# --- for whom


@pytest.mark.parametrize("path", [*LISTS, "/topics/x/", f"/tasks/{UNKNOWN}/"])
def test_a_stranger_is_asked_to_sign_in_and_comes_back(
    client: Client, path: str
) -> None:
    response = client.get(path)

    assert response.status_code == 302
    assert response["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize("role", ["", "agent"])
def test_without_a_role_that_reads_the_page_says_whom_to_ask(role: str) -> None:
    signed_in("admin")

    response = signed_in(role).get("/")

    assert response.status_code == 403
    assert "Ask admin" in looked_at(response).text


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
@pytest.mark.parametrize("path", LISTS)
def test_an_empty_mesh_has_pages_that_help(role: str, path: str) -> None:
    response = signed_in(role).get(path)

    assert response.status_code == 200
    looked_at(response)


def test_an_empty_list_shows_a_call_with_the_right_host(viewer: Client) -> None:
    page = viewer.get("/tasks/", headers={"host": "localhost:8123"})

    assert "curl http://localhost:8123/api/v1/mesh/enqueue" in looked_at(page).text


@pytest.mark.parametrize(
    ("path", "region"),
    [
        *(("/", "topics"), ("/topics/", "topics"), ("/agents/", "agents")),
        *(("/results/", "results"), ("/dead/", "dead")),
    ],
)
def test_an_empty_list_fills_by_itself(viewer: Client, path: str, region: str) -> None:
    page = viewer.get(path).content.decode()

    assert re.search(rf'<tbody[^>]* data-live="{region}"[^>]*>\s*</tbody>', page)
    assert 'class="empty" data-live-empty' in page  # until a row is there


# --- what they show


def test_every_page_shows_a_mesh_at_work(test_topic: str, viewer: Client) -> None:
    bus.register_agent("by-hand", "resizer", meta={"version": "1.2"})
    dead_id = dead_task(test_topic, {"n": 1})
    cancelled = bus.enqueue_task(test_topic, {"n": 2})
    bus.cancel(cancelled, test_topic)
    delayed = bus.enqueue_task(test_topic, {"n": 3}, delay_s=600)
    waiting = bus.enqueue_task(test_topic, {"n": 4})

    for path in [
        *LISTS,
        f"/topics/{test_topic}/",
        *(f"/tasks/{each}/" for each in (dead_id, cancelled, delayed, waiting)),
        f"/tasks/{waiting}/?topic={test_topic}",
        f"/tasks/?topic={test_topic}&state=waiting",
        f"/results/?topic={test_topic}",
        "/agents/by-hand/",
        f"/dead/?topic={test_topic}",
        f"/dead/{dead_id}/",
        f"/dead/{waiting}/",
        f"/dead/groups/{group_of(test_topic)}/",
    ]:
        response = viewer.get(path)

        assert response.status_code == 200, path
        seen = looked_at(response)
        assert test_topic in seen.text or "by-hand" in seen.text, path


def test_a_finished_task_shows_result_agent_and_timeline(
    test_topic: str, viewer: Client
) -> None:
    task_id = bus.enqueue_task(test_topic, {"colour": "green"})
    with agents.running(test_topic, work.echo, agent_id="worker-9"):
        bus.wait_result(task_id, test_topic, 10)

    seen = looked_at(viewer.get(f"/tasks/{task_id}/"))
    listed = looked_at(viewer.get("/results/"))

    assert seen.text.count('"colour": "green"') >= 2  # payload and result
    assert all(word in seen.text for word in ("enqueued", "started", "done"))
    assert "worker-9" in seen.text
    assert task_id[-6:] in listed.text


def test_a_finished_task_shows_what_it_took_to_get_it_done(
    test_topic: str, viewer: Client
) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, {"colour": "grene"})
    desk.fail(desk.one(), final=True, message="no such colour")
    bus.replay(task_id, payload={"colour": "green"}, by="ann")
    desk.complete(desk.one())

    seen = looked_at(viewer.get(f"/tasks/{task_id}/")).text

    assert "Done." in seen and "ValueError: no such colour" in seen
    assert "by ann" in seen and '"grene"' in seen
    assert "with an edited payload by ann" in seen


def test_a_task_shows_where_its_time_went(test_topic: str, viewer: Client) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), delay_s=3_600)

    response = viewer.get(f"/tasks/{task_id}/")
    seen, html = looked_at(response).text, response.content.decode()

    assert "ran and failed 5 ms" in seen
    assert re.search(r"paused before a retry (59 min|1 h)", seen)
    assert 'aria-label="To scale: ' in html
    assert '<rect class="here"' in html  # it is due in an hour
    assert "after 5 ms" in seen and "are drawn wider, to be seen" in seen


def test_a_topic_tells_how_long_its_tasks_waited_and_ran(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    before = looked_at(viewer.get(f"/topics/{test_topic}/")).text

    desk = Desk(test_topic)
    desk.complete(desk.one())

    assert "p95" not in before
    text = looked_at(viewer.get(f"/topics/{test_topic}/")).text
    assert text.count("p50") == text.count("p99") == 2
    assert "Waited" in text and "Ran" in text


def test_a_topic_tells_how_soon_it_is_empty(
    test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(30))
    before = looked_at(viewer.get(f"/topics/{test_topic}/")).text
    minute = int(redis_client.time()[0]) // 60
    key = keys.named("minutes", test_topic)
    # In each minute around now, so that it does not matter when one ends.
    for each in range(minute - 1, minute + 3):
        redis_client.hset(key, str(each % 180), f"{each} d=60")

    seen = looked_at(viewer.get(f"/topics/{test_topic}/")).text
    listed = viewer.get("/topics/").content.decode()

    assert "empty in" not in before
    # The last 60 s are up to two of them.
    assert re.search(r"empty in (1[5-9]|2\d|30) s", seen)
    assert re.search(r'data-label="Empty in">(1[5-9]|2\d|30) s<', listed)


def test_one_slot_and_one_retry_are_no_plurals(test_topic: str, viewer: Client) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(2))
    record = {"agent_id": "a", "agent_type": "mesh", "meta": {}, "in_flight": 1}

    said = []
    for slots in (1, 2):
        desk.fail(desk.one())
        agents_room.register("a", "a#00000001", 60, {**record, "slots": slots})
        pages = ("/agents/a/", f"/topics/{test_topic}/")
        said.append([looked_at(viewer.get(path)).text for path in pages])

    (agent, topic), (agent_of_two, topic_of_two) = said
    assert "1 of 1 slot" in agent and "1 of 1 slots" not in agent
    assert "1 of 2 slots" in agent_of_two
    assert "1 retry so far" in topic
    assert "2 retries so far" in topic_of_two


def test_a_letter_shows_the_attempts_of_all_its_lives(
    test_topic: str, viewer: Client
) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1})
    options: dict[str, Any] = {"max_attempts": 2, "backoff_s": 0.001}
    for _ in range(2):
        with agents.running(test_topic, work.failing, **options):
            wait_until(lambda: bus.get_task(task_id, test_topic).state == "dead", 20)
        first_life = looked_at(viewer.get(f"/dead/{task_id}/"))
        if "Dead again" not in first_life.text:
            bus.replay(task_id, test_topic)

    seen = looked_at(viewer.get(f"/dead/{task_id}/"))

    assert "Dead again" in seen.text and "After replay 1" in seen.text
    assert seen.text.count("Attempt 1") == 2
    assert seen.text.count("Attempt 2") == 2
    assert "ValueError: cannot do" in seen.text and "Traceback" in seen.text


def test_the_overview_names_what_needs_somebody(
    test_topic: str,
    viewer: Client,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queries, "_PATIENCE_S", 0)
    redis_client.config_set("maxmemory", 2**30)  # without a bound it says so
    # Redis 7.0 of a distribution has its faults mended, and a number that has them.
    monkeypatch.setattr(fitness, "_BROKEN", {"Valkey": [], "Redis": []})
    queries.forget_checks()
    quiet = looked_at(viewer.get("/")).text
    dead_task(test_topic, 1)
    lonely = f"{test_topic}-lonely"
    bus.enqueue_task(lonely, 2)
    wait_until(lambda: bus.stats(lonely)["oldest_s"] > 0)

    seen = looked_at(viewer.get("/"))

    assert "All clear" in quiet
    assert "2 problems" in seen.text
    assert f"1 task waits in {lonely} and no live agent serves it" in seen.text
    assert f"1 dead letter in {test_topic}" in seen.text


def test_an_agent_that_misses_its_beats_is_a_problem(
    viewer: Client, redis_client: redis.Redis
) -> None:
    bus.register_agent("tardy", "shell", 100)
    kept: Any = redis_client.hget(keys.GONE, "tardy")
    beat, rest = kept.split("|", 1)
    redis_client.hset(keys.GONE, "tardy", f"{int(beat) - 61_000}|{rest}")

    assert "tardy misses its heartbeats" in looked_at(viewer.get("/")).text


def test_a_letter_that_is_gone_when_it_is_looked_for_says_so(
    test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, get_dead = dead_task(test_topic, 1), bus.get_dead

    def late(*args: Any) -> Any:
        bus.discard(task_id)
        return get_dead(*args)

    monkeypatch.setattr(bus, "get_dead", late)
    response = viewer.get(f"/dead/{task_id}/", {"topic": test_topic})

    assert response.status_code == 200
    text = looked_at(response).text
    assert "Discarded" in text and "The task is dead" not in text


def test_numbers_that_somebody_else_wrote_are_told_whole(
    test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    big = 2**70
    row = f'{{"id": "{UNKNOWN}", "state": "done", "task": {big}, "result": [{big}]}}'
    bus.create_consumer_group(test_topic, "g")
    redis_client.xadd(bus.result_stream(test_topic), {"id": UNKNOWN, "json": row})

    answer = viewer.get("/api/v1/mesh/results", {"topic": test_topic})

    assert answer.json()["results"][0]["result"] == [big]


def test_a_search_by_id_goes_to_the_task(test_topic: str, viewer: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    found = viewer.get("/tasks/", {"q": f" {task_id.upper()} "})

    assert found["Location"] == f"/tasks/{task_id}/?topic={test_topic}"


@pytest.mark.parametrize("other_id", [UNKNOWN, UNKNOWN.replace("-", "")])
def test_an_id_of_something_else_is_looked_for_in_payloads(
    test_topic: str, viewer: Client, other_id: str
) -> None:
    bus.enqueue_task(test_topic, {"order": "another"})
    task_id = bus.enqueue_task(test_topic, {"order": other_id})

    asked = {"q": other_id, "topic": test_topic}
    found = viewer.get("/tasks/", asked)

    assert [task.id for task in found.context["page"].tasks] == [task_id]
    if other_id == UNKNOWN:
        assert "No task has this id." in looked_at(found).text


def test_what_nobody_sees_stays_in_the_field_of_a_search(
    test_topic: str, viewer: Client
) -> None:
    wanted = "\u05d0\u200fb"
    task_id = bus.enqueue_task(test_topic, {"name": wanted})

    page = viewer.get("/tasks/", {"q": wanted, "topic": test_topic})

    assert f'value="{wanted}"' in page.content.decode()
    assert "with “\u05d0\\u200fb”" in looked_at(page).text
    assert [task.id for task in page.context["page"].tasks] == [task_id]


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/?cursor=%00",
        "/tasks/?cursor=waiting/x/y",
        "/tasks/?state=lost",
        "/tasks/?topic=no-such",
        "/tasks/not-a-uuid/",
        f"/tasks/{UNKNOWN}/",
        f"/tasks/{UNKNOWN}/?topic=A%20B",
        f"/dead/{UNKNOWN}/",
        "/dead/groups/0000/",
        "/results/?before=1-1",
        "/results/?after=99999999999999999999-1@x",
        "/topics/no-such/",
        "/topics/UPPER/",
        "/agents/nobody/",
        "/agents/%3Cb%3E/",
        "/nowhere/",
    ],
)
def test_odd_addresses_are_not_found(
    path: str, test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    expected = 200 if path == "/tasks/?cursor=waiting/x/y" else 404

    response = viewer.get(path)

    assert response.status_code == expected
    looked_at(response)


# --- what they never do


def test_whatever_somebody_sent_is_shown_as_text(
    test_topic: str, redis_client: redis.Redis
) -> None:
    operator = signed_in("operator")
    bus.register_agent("odd", NASTY[:60], meta={NASTY: [NASTY]})
    agents_room.register(
        "lies", "lies", 60, {"agent_id": "lies", "topics": [NASTY, {}, "", 7]}
    )
    dead_id = dead_task(test_topic, {NASTY: NASTY}, error=NASTY)
    waiting = bus.enqueue_task(test_topic, NASTY)
    # Somebody else's rows: no JSON, and JSON with odd values in every place.
    results = bus.result_stream(test_topic)
    redis_client.xadd(results, {"id": NASTY, "json": NASTY})
    row = dict.fromkeys(("id", "state", "agent", "error", "finished_at"), NASTY)
    redis_client.xadd(results, {"id": "x", "json": bus.tasks.messages.dump(row)})
    redis_client.xadd(results, {"json": '{"id": {"a": [1]}, "state": [], "agent": 7}'})
    redis_client.xadd(bus.dead_stream(test_topic), {"id": NASTY, "json": NASTY})

    for path in [
        *LISTS,
        f"/topics/{test_topic}/",
        f"/tasks/{waiting}/",
        f"/tasks/{dead_id}/",
        "/agents/odd/",
        "/agents/lies/",
        f"/dead/{dead_id}/",
        f"/dead/{dead_id}/discard",
        f"/dead/groups/{group_of(test_topic)}/",
    ]:
        response = operator.get(path)

        assert response.status_code == 200, path
        seen = looked_at(response)  # no script, no handler that is not ours
        assert "<img" not in re.sub(r"<img src=\"/static/[^>]*>", "", _body(response))
        assert "{{ 7*7 }}" in seen.text or path in ("/", "/topics/", "/agents/"), path


def _body(response: Any) -> str:
    return str(response.content.decode())


def test_pages_are_kept_by_nobody_and_framed_by_nobody(viewer: Client) -> None:
    response = viewer.get("/")

    assert "no-store" in response["Cache-Control"]
    assert "private" in response["Cache-Control"]
    assert response["X-Frame-Options"] == "DENY"
    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


def test_a_huge_payload_does_not_make_a_huge_page(
    test_topic: str, viewer: Client
) -> None:
    payload = {"text": "x" * 200_000}
    task_id = bus.enqueue_task(test_topic, payload)

    page = viewer.get(f"/tasks/{task_id}/")
    listed = viewer.get("/tasks/")

    assert "more characters" in looked_at(page).text
    assert len(listed.content) < 20_000


def test_reading_changes_nothing(
    test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    dead_id = dead_task(test_topic, 1)
    viewer.get("/")
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}

    for path in [*LISTS, f"/topics/{test_topic}/", f"/dead/{dead_id}/"]:
        viewer.get(path)
        assert viewer.head(path).status_code == 200
        assert viewer.post(path).status_code == 405

    after = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    assert after == before


@pytest.mark.parametrize("path", [*LISTS, f"/tasks/{UNKNOWN}/"])
def test_without_redis_there_is_a_page_that_says_so(
    path: str, viewer: Client, failure_simulator: Any
) -> None:
    queries.forget_checks()
    failure_simulator.unreachable()

    response = viewer.get(path)

    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert "Redis does not answer" in looked_at(response).text


def test_a_page_of_a_damaged_key_says_that_it_is_mended(
    viewer: Client, redis_client: redis.Redis
) -> None:
    bus.enqueue_task("mail", 1)
    redis_client.delete("mesh:{mail}:delayed")
    redis_client.set("mesh:{mail}:delayed", "not ours")

    response = viewer.get("/topics/mail/")

    assert response.status_code == 503
    assert "mended within seconds" in looked_at(response).text


def test_a_page_at_full_memory_says_what_is_full(redis_client: redis.Redis) -> None:
    operator = signed_in("operator")
    bus.enqueue_task("mail", 1)
    redis_client.config_set("maxmemory", 1)

    response = operator.post("/topics/mail/send", {"task_id": UNKNOWN, "task": "1"})

    redis_client.config_set("maxmemory", 0)
    said = looked_at(response).text
    assert response.status_code == 503
    assert "Redis has no memory for new tasks" in said
    assert "Nothing was changed" in said


def test_a_mistake_of_ours_is_a_page_with_the_id_that_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = signed_in("viewer", raise_request_exception=False)
    monkeypatch.setattr(queries, "standing", lambda: 1 / 0)

    response = client.get("/")

    assert response.status_code == 500
    text = looked_at(response).text
    assert "Something broke" in text and "ZeroDivision" not in text
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    mark = response["X-Error-Id"]
    assert mark and mark in text and mark in record.getMessage()
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError


def test_templates_and_styles_name_no_outside_host() -> None:
    files = [
        *(ROOT / "dashboard" / "templates").rglob("*.html"),
        *(ROOT / "dashboard" / "static").rglob("*.css"),
        *(ROOT / "dashboard" / "static").rglob("*.js"),
    ]

    assert len(files) > 20
    for path in files:
        found = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}", path.read_text())
        assert found == [], path


def test_every_icon_that_is_used_is_in_the_sprite() -> None:
    from dashboard import status

    sprite = (ROOT / "dashboard/static/dashboard/icons/sprite.svg").read_text()
    there = set(re.findall(r'<symbol id="([\w-]+)"', sprite))
    used = {each.icon for each in (*status.TASKS.values(), *status.AGENTS.values())}
    for path in (ROOT / "dashboard" / "templates").rglob("*.html"):
        used |= set(re.findall(r'{% icon "([\w-]+)" %}', path.read_text()))

    assert used - there == set()
    assert there - used == {"circle-dashed"}, "drop what nobody uses"
