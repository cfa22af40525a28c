"""The founding functions one by one: connections, keys, tasks, results, agents, groups.

Single reading commands run against a fake, whatever is a script against the server.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

import bus
from bus import connection, errors
from tests.support.waiting import wait_until

TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets REDIS_URL for code that only makes clients."""
    connection.reset()
    yield lambda url: monkeypatch.setenv("REDIS_URL", url)
    connection.reset()


@pytest.fixture
def fake_reader(
    mock_redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> fakeredis.FakeRedis:
    """The fake behind every reading command of the bus."""
    monkeypatch.setattr(connection, "reader", lambda: mock_redis)
    return mock_redis


def options_of(client: Any) -> dict[str, Any]:
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    return options


def one_task(topic: str) -> tuple[str, str]:
    """Id and entry id of a new task in the hand of agent `me`."""
    task_id = bus.enqueue_task(topic, {"n": 1})
    [(entry_id, _)] = bus.read_group(topic, "workers", "me", block_ms=0)
    return task_id, entry_id


# --- _redis_url


def test_redis_url_is_that_of_the_environment(urls: Callable[[str], None]) -> None:
    urls("  redis://elsewhere:7000/3\n")

    assert bus._redis_url() == "redis://elsewhere:7000/3"


def test_redis_url_is_else_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.REDIS_URL = "redis://configured:6379/0"

    assert bus._redis_url() == "redis://configured:6379/0"


def test_redis_url_is_else_the_embedded_server_of_this_folder(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.REDIS_URL = ""
    settings.MESH_VAR_DIR = str(tmp_path)
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "url").write_text("redis://:pw@127.0.0.1:6390/0\n")

    assert bus._redis_url() == "redis://:pw@127.0.0.1:6390/0"


@pytest.mark.parametrize("announced", [None, "", "\n"])
def test_redis_url_is_at_last_the_founding_default(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    tmp_path: Path,
    announced: str | None,
) -> None:
    monkeypatch.setenv("REDIS_URL", "  ")
    settings.REDIS_URL = ""
    settings.MESH_VAR_DIR = str(tmp_path)
    if announced is not None:
        (tmp_path / "redis").mkdir()
        (tmp_path / "redis" / "url").write_text(announced)

    assert bus._redis_url() == "redis://redis:6379/0"


# --- get_redis, get_redis_async


def test_get_redis_gives_one_client_per_process(urls: Callable[[str], None]) -> None:
    urls("redis://one:6379/0")

    found = [bus.get_redis()]
    threads = [
        threading.Thread(target=lambda: found.append(bus.get_redis())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(client) for client in found}) == 1


def test_get_redis_relies_on_no_default_of_its_library(
    urls: Callable[[str], None],
) -> None:
    urls("redis://one:6380/2")

    client = bus.get_redis()

    options = options_of(client)
    assert client.connection_pool.max_connections == 50
    assert (options["host"], options["port"], options["db"]) == ("one", 6380, 2)
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 5.0
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] == 30
    assert options["decode_responses"] is True


def test_get_redis_async_gives_one_client_per_loop(
    urls: Callable[[str], None],
) -> None:
    urls("redis://one:6379/0")

    async def twice() -> list[Any]:
        return [bus.get_redis_async(), bus.get_redis_async()]

    first, again = asyncio.run(twice())
    elsewhere, _ = asyncio.run(twice())

    assert first is again
    assert first is not elsewhere


def test_get_redis_async_talks_to_the_server(redis_client: redis.Redis) -> None:
    async def talk() -> Any:
        async with bus.get_redis_async() as client:
            await client.set("mesh:format", "1")
            return await client.get("mesh:format")

    assert asyncio.run(talk()) == "1"


# --- task_stream, result_stream, dead_stream, agent_key


def test_the_founding_keys(test_topic: str) -> None:
    assert bus.task_stream(test_topic) == f"stream:tasks:{{{test_topic}}}"
    assert bus.result_stream(test_topic) == f"stream:results:{{{test_topic}}}"
    assert bus.dead_stream(test_topic) == f"stream:dead:{{{test_topic}}}"
    assert bus.agent_key("resizer-1") == "mesh:agent:{agents}:resizer-1"


# --- enqueue_task


def test_an_enqueued_task_waits_with_its_payload(
    test_topic: str, sample_task_data: dict[str, Any]
) -> None:
    task_id = bus.enqueue_task(test_topic, sample_task_data)

    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.payload) == ("waiting", sample_task_data)
    assert (task.attempt, task.epoch, task.ended) == (0, 0, False)


def test_a_task_id_is_a_uuid_that_sorts_by_time(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(20))

    assert {uuid.UUID(task_id).version for task_id in ids} == {7}
    assert len(set(ids)) == 20
    assert [task_id[:8] for task_id in ids] == sorted(task_id[:8] for task_id in ids)


def test_an_entry_has_exactly_the_fields_that_compress(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, {"a": "ä"})

    [(_, fields)] = redis_client.xrange(bus.task_stream(test_topic))

    assert list(fields.items()) == [
        ("id", task_id),
        ("json", '{"a":"ä"}'),
        ("meta", ""),
    ]


@pytest.mark.parametrize(
    "payload",
    [float("nan"), {"a": float("inf")}, {"\ud800": 1}, {1, 2}, b"x", object()]
    + ["x" * 262_143, [0] * 10_000],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_that_is_no_json_writes_nothing(
    test_topic: str, redis_client: redis.Redis, payload: Any
) -> None:
    with pytest.raises(errors.InvalidPayload):
        bus.enqueue_task(test_topic, payload)

    assert redis_client.dbsize() == 0


@pytest.mark.parametrize(
    "options",
    [{"maxlen": bad} for bad in (0, -1, True, "5", 1.5, float("nan"))]
    + [{"delay_s": bad} for bad in (-1, float("nan"), float("inf"), "5", True, 1e12)]
    + [{"timeout_s": bad} for bad in (0, 0.0009, -1, float("nan"), "5", True, 1e9)]
    + [{"max_attempts": bad} for bad in (0, -1, 1_001, 1.5, "5", True)],
    ids=repr,
)
def test_an_option_out_of_range_writes_nothing(
    test_topic: str, redis_client: redis.Redis, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidOption, match=next(iter(options))):
        bus.enqueue_task(test_topic, 1, **options)

    assert redis_client.dbsize() == 0


@pytest.mark.parametrize("task_id", ["", "x", "*", 5, "0198c0de"])
def test_a_task_id_that_is_no_uuid_writes_nothing(
    test_topic: str, redis_client: redis.Redis, task_id: Any
) -> None:
    with pytest.raises(errors.InvalidName, match="task id"):
        bus.enqueue_task(test_topic, 1, task_id=task_id)

    assert redis_client.dbsize() == 0


def test_the_options_of_a_task_are_kept_exactly(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, max_attempts=3, timeout_s=123_456.789)

    task = bus.get_task(task_id, test_topic)
    assert (task.max_attempts, task.timeout_s) == (3, 123_456.789)


@pytest.mark.parametrize("delay_s", [None, 0, 0.0, 1e-9])
def test_a_task_without_delay_waits_at_once(
    test_topic: str, delay_s: float | None
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=delay_s)

    assert bus.get_task(task_id, test_topic).state == "waiting"


def test_a_task_with_a_delay_is_in_no_stream_yet(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, {"a": 1}, delay_s=3_600)

    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.payload) == ("delayed", {"a": 1})
    assert redis_client.xlen(bus.task_stream(test_topic)) == 0


def test_the_same_task_again_is_the_same_task(test_topic: str) -> None:
    first = bus.enqueue_task(test_topic, {"a": 1, "b": 2}, task_id=TASK_ID)

    second = bus.enqueue_task(test_topic, {"b": 2, "a": 1}, task_id=TASK_ID.upper())

    assert first == second == TASK_ID
    assert bus.stats(test_topic)["backlog"] == 1


@pytest.mark.parametrize("other", [2, True, "1", [1], None, {}], ids=repr)
def test_another_payload_under_a_known_id_is_a_conflict(
    test_topic: str, other: Any
) -> None:
    bus.enqueue_task(test_topic, 1, task_id=TASK_ID)

    with pytest.raises(errors.TaskConflict, match=TASK_ID):
        bus.enqueue_task(test_topic, other, task_id=TASK_ID)

    assert bus.get_task(TASK_ID, test_topic).payload == 1


def test_the_async_twin_enqueues_the_same(test_topic: str) -> None:
    async def send() -> str:
        task_id = await bus.aenqueue_task(test_topic, {"a": 1}, max_attempts=2)
        await connection.awriter().aclose()
        return task_id

    task = bus.get_task(asyncio.run(send()), test_topic)

    assert (task.state, task.payload, task.max_attempts) == ("waiting", {"a": 1}, 2)


def test_the_async_twin_refuses_the_same(test_topic: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        asyncio.run(bus.aenqueue_task(test_topic, object()))


@pytest.mark.django_db
def test_a_task_can_wait_for_the_open_transaction(
    test_topic: str, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        task_id = bus.enqueue_task(test_topic, 1, on_commit=True)
        before = bus.stats(test_topic)["backlog"]

    assert (before, len(callbacks)) == (0, 1)
    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.django_db
def test_a_bad_payload_fails_before_the_transaction_commits(test_topic: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        bus.enqueue_task(test_topic, object(), on_commit=True)


# --- tail_results


def test_a_topic_without_results_has_none(fake_reader: fakeredis.FakeRedis) -> None:
    assert bus.tail_results("demo") == []


def test_results_come_newest_first(
    fake_reader: fakeredis.FakeRedis, sample_result_data: dict[str, Any]
) -> None:
    for n in range(30):
        row = {"state": "done", "result": sample_result_data | {"n": n}}
        fake_reader.xadd(bus.result_stream("demo"), {"json": json.dumps(row)})

    found = bus.tail_results("demo", count=25)

    assert [row["result"]["n"] for _, row in found] == list(range(29, 4, -1))
    assert (
        found[0][0] == fake_reader.xrevrange(bus.result_stream("demo"), count=1)[0][0]
    )


@pytest.mark.parametrize(
    "text", ["not json", "", "{", "5", "[1]", "null", '"text"', "NaN", "{}"]
)
def test_a_result_of_broken_json_comes_back_as_its_fields(
    fake_reader: fakeredis.FakeRedis, text: str
) -> None:
    fields = {"id": "x", "json": text, "more": "yes"}
    entry_id = fake_reader.xadd(bus.result_stream("demo"), fields)

    assert bus.tail_results("demo") == [(entry_id, fields)]


def test_a_result_without_json_comes_back_as_its_fields(
    fake_reader: fakeredis.FakeRedis,
) -> None:
    fake_reader.xadd(bus.result_stream("demo"), {"value": "5"})

    assert [row for _, row in bus.tail_results("demo")] == [{"value": "5"}]


@pytest.mark.parametrize("state", ["cancelled", "discarded"])
def test_what_gave_no_result_does_not_crowd_out_what_did(
    fake_reader: fakeredis.FakeRedis, state: str
) -> None:
    key = bus.result_stream("demo")
    done = fake_reader.xadd(key, {"json": '{"state":"done"}'})
    for _ in range(40):
        fake_reader.xadd(key, {"json": json.dumps({"state": state})})

    assert [entry_id for entry_id, _ in bus.tail_results("demo", 5)] == [done]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_tail_is_as_long_as_asked(
    fake_reader: fakeredis.FakeRedis, count: int
) -> None:
    for n in range(5):
        fake_reader.xadd(bus.result_stream("demo"), {"json": f'{{"n":{n}}}'})

    assert len(bus.tail_results("demo", count)) == count


# --- register_agent, heartbeat_agent, list_agents


def test_a_registered_agent_is_listed(
    redis_client: redis.Redis, sample_agent_data: dict[str, Any]
) -> None:
    bus.register_agent(**sample_agent_data)

    [agent] = bus.list_agents()

    for name in ("agent_id", "agent_type", "meta"):
        assert agent[name] == sample_agent_data[name]


def test_a_registration_lives_as_long_as_it_says(
    redis_client: redis.Redis, sample_agent_data: dict[str, Any]
) -> None:
    bus.register_agent(**sample_agent_data)

    ttl_ms = redis_client.pttl(bus.agent_key(sample_agent_data["agent_id"]))

    assert 20_000 < ttl_ms <= 30_000


def test_a_registration_without_options_lives_a_minute(
    redis_client: redis.Redis,
) -> None:
    bus.register_agent("a", "t")

    assert bus.list_agents()[0]["meta"] == {}
    assert 50_000 < redis_client.pttl(bus.agent_key("a")) <= 60_000


def test_an_agent_that_falls_silent_leaves_the_list(redis_client: redis.Redis) -> None:
    bus.register_agent("silent", "t", ttl_seconds=0.05)
    bus.register_agent("alive", "t")

    wait_until(lambda: len(bus.list_agents()) == 1)

    assert [agent["agent_id"] for agent in bus.list_agents()] == ["alive"]


def test_a_heartbeat_keeps_a_registration(redis_client: redis.Redis) -> None:
    bus.register_agent("a", "t", ttl_seconds=5, meta={"v": 1})

    kept = bus.heartbeat_agent("a", ttl_seconds=500)

    assert kept is True
    assert redis_client.pttl(bus.agent_key("a")) > 400_000
    assert bus.list_agents()[0]["meta"] == {"v": 1}


def test_a_heartbeat_never_creates_an_agent(redis_client: redis.Redis) -> None:
    assert bus.heartbeat_agent("stranger") is False

    assert bus.list_agents() == []
    assert redis_client.dbsize() == 0


def test_a_second_registration_replaces_the_first(redis_client: redis.Redis) -> None:
    bus.register_agent("a", "old", meta={"v": 1, "only_old": True})

    bus.register_agent("a", "new", meta={"v": 2})

    [agent] = bus.list_agents()
    assert (agent["agent_type"], agent["meta"]) == ("new", {"v": 2})


def test_an_agent_that_signs_off_is_gone_at_once(redis_client: redis.Redis) -> None:
    bus.register_agent("a", "t")

    assert bus.deregister_agent("a") is True
    assert bus.deregister_agent("a") is False
    assert bus.list_agents() == []
    assert bus.heartbeat_agent("a") is False


def test_agents_are_listed_in_the_order_of_their_ids(redis_client: redis.Redis) -> None:
    for agent_id in ("b", "c", "a"):
        bus.register_agent(agent_id, "t")

    assert [agent["agent_id"] for agent in bus.list_agents()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "bad",
    [{"agent_id": bad} for bad in ("", "a b", "a#b", "é", "x" * 129, None)]
    + [{"agent_type": bad} for bad in ("", "x" * 65, "a\n", None, 5)]
    + [{"ttl_seconds": bad} for bad in (0, -1, float("nan"), 86_401, "5", True)]
    + [{"meta": bad} for bad in ([], "x", {"a": object()}, {"a": float("nan")})]
    + [{"meta": {"a": "x" * 300_000}}],
    ids=lambda bad: ascii(bad)[:32],
)
def test_a_bad_registration_writes_nothing(
    redis_client: redis.Redis, sample_agent_data: dict[str, Any], bad: dict[str, Any]
) -> None:
    with pytest.raises(
        (errors.InvalidName, errors.InvalidOption, errors.InvalidPayload)
    ):
        bus.register_agent(**(sample_agent_data | bad))

    assert redis_client.dbsize() == 0


# --- create_consumer_group, read_group, ack, move_to_dead


def test_a_group_is_created_once(test_topic: str) -> None:
    assert bus.create_consumer_group(test_topic, "workers") is True
    assert bus.create_consumer_group(test_topic, "workers") is False


def test_a_read_entry_has_all_an_agent_needs(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1})

    [(entry_id, fields)] = bus.read_group(test_topic, "workers", "me", block_ms=0)

    assert fields == {
        "id": task_id,
        "json": '{"n":1}',
        "payload": {"n": 1},
        "meta": "",
        "attempt": 1,
        "fence": f"{entry_id}.0",
    }


def test_an_empty_topic_gives_an_empty_read(test_topic: str) -> None:
    assert bus.read_group(test_topic, "workers", "me", block_ms=0) == []


@pytest.mark.parametrize(
    "bad",
    [{"group": bad} for bad in ("", "~", "a\nb", None)]
    + [{"consumer": bad} for bad in ("", "~", "\x00", None)]
    + [{"count": bad} for bad in (0, -1, 1_001, True, "5", None)],
    ids=repr,
)
def test_a_read_out_of_range_is_refused(test_topic: str, bad: dict[str, Any]) -> None:
    options: dict[str, Any] = {"group": "workers", "consumer": "me", "block_ms": 0}

    with pytest.raises((errors.InvalidName, errors.InvalidOption)):
        bus.read_group(test_topic, **(options | bad))


def test_an_ack_completes_the_task_once(test_topic: str) -> None:
    task_id, entry_id = one_task(test_topic)

    assert bus.ack(test_topic, "workers", entry_id) == 1
    assert bus.ack(test_topic, "workers", entry_id) == 0
    assert bus.get_task(task_id, test_topic).state == "done"


def test_a_task_moved_to_dead_is_a_dead_letter(test_topic: str) -> None:
    task_id, entry_id = one_task(test_topic)

    dead_id = bus.move_to_dead(test_topic, entry_id, {"error": "no such width"})

    [letter] = bus.list_dead(test_topic)
    assert (letter.entry_id, letter.id) == (dead_id, task_id)
    assert letter.payload == {"error": "no such width"}
    assert letter.error["message"] == "no such width"


def test_a_dead_entry_has_the_founding_shape(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id, entry_id = one_task(test_topic)

    dead_id = bus.move_to_dead(test_topic, entry_id, {"n": 1})

    [(found_id, fields)] = redis_client.xrange(bus.dead_stream(test_topic))
    assert found_id == dead_id
    assert json.loads(fields["json"]) == {"id": task_id, "payload": {"n": 1}}


@pytest.mark.parametrize("entry_id", ["", "x", "1", "1-", "$", "*", None])
def test_what_is_no_entry_id_is_refused(test_topic: str, entry_id: Any) -> None:
    with pytest.raises(errors.InvalidName, match="entry id"):
        bus.ack(test_topic, "workers", entry_id)
    with pytest.raises(errors.InvalidName, match="entry id"):
        bus.move_to_dead(test_topic, entry_id, {})


@pytest.mark.parametrize(
    "payload", [object(), float("nan"), {"a": [float("inf")]}, "\ud800", {1: 2}]
)
def test_a_letter_that_is_no_json_leaves_the_task_alone(
    test_topic: str, payload: Any
) -> None:
    task_id, entry_id = one_task(test_topic)

    with pytest.raises(errors.InvalidPayload):
        bus.move_to_dead(test_topic, entry_id, payload)

    assert bus.get_task(task_id, test_topic).state == "running"
    assert bus.list_dead(test_topic) == []
