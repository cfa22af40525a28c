"""The founding functions one by one: connections, keys, tasks, results, agents, groups.

Single reading commands run against a fake, whatever is a script against the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, scripts
from tests.support.figures import Figures
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"
# Nobody listens there: it is a privileged port that no test server takes.
DEAD_URL = "redis://127.0.0.1:1/0"


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


@pytest.fixture
def impatient(settings: Settings) -> None:
    """Calls that find no server give up after a moment."""
    settings.MESH_SEND_RETRY_S = 0.05


def options_of(client: Any) -> dict[str, Any]:
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    return options


def one_task(topic: str, group: str = "workers") -> str:
    """The entry id of a new task in the hand of agent `me`."""
    bus.enqueue_task(topic, {"n": 1})
    [(entry_id, _)] = bus.read_group(topic, group, "me", block_ms=0)
    return entry_id


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


def test_get_redis_follows_the_url(urls: Callable[[str], None]) -> None:
    urls("redis://one:6379/0")
    first = bus.get_redis()
    urls("redis://two:6379/0")

    second = bus.get_redis()

    assert (options_of(first)["host"], options_of(second)["host"]) == ("one", "two")


def test_a_forked_child_gets_connections_of_its_own(
    urls: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls("redis://one:6379/0")
    parent = bus.get_redis()
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert bus.get_redis().connection_pool is not parent.connection_pool


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


def test_the_pool_and_its_patience_are_settings(
    urls: Callable[[str], None], settings: Settings
) -> None:
    urls("redis://one:6379/0")
    settings.MESH_POOL_SIZE = 7
    settings.MESH_SOCKET_TIMEOUT_S = 1.5

    client = bus.get_redis()

    assert client.connection_pool.max_connections == 7
    assert options_of(client)["socket_timeout"] == 1.5


def test_a_unix_socket_has_no_keepalive(urls: Callable[[str], None]) -> None:
    urls("unix:///run/mesh.sock")

    options = options_of(bus.get_redis())

    assert options["path"] == "/run/mesh.sock"
    assert "socket_keepalive" not in options


def test_scripts_are_never_sent_twice_by_the_library(
    urls: Callable[[str], None],
) -> None:
    urls("redis://one:6379/0")

    assert connection.writer().get_retry().get_retries() == 0


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


def test_get_redis_async_has_the_limits_of_get_redis(
    urls: Callable[[str], None],
) -> None:
    urls("redis://one:6379/0")

    async def client() -> Any:
        return bus.get_redis_async()

    options = options_of(asyncio.run(client()))

    for name in ("socket_timeout", "socket_keepalive", "health_check_interval"):
        assert options[name] == options_of(bus.get_redis())[name]
    assert options["decode_responses"] is True


def test_get_redis_async_talks_to_the_server(redis_client: redis.Redis) -> None:
    async def talk() -> Any:
        async with bus.get_redis_async() as client:
            await client.set("mesh:format", "1")
            return await client.get("mesh:format")

    assert asyncio.run(talk()) == "1"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost:6379",
        "valkey://localhost",
        "redis://",
        "redis://host:port/0",
        "redis://host:99999/0",
        "redis://[::1/0",
        "redis://host/0?socket_timeout=soon",
        "redis://host/0?db=first",
        "redis://host/first",
        "redis://host/-1",
        "redis://host/0?no_such_option=1",
        "not a url at all",
    ],
)
def test_a_url_that_does_not_parse_says_so(
    urls: Callable[[str], None], url: str
) -> None:
    urls(url)

    with pytest.raises(errors.InvalidOption, match="REDIS_URL"):
        bus.get_redis()


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret-word@host:6379/0",
        "redis://me:secret-word@host:x/0",
        "redis://:secret-word@[::1/0",
        "redis://:secret-word@127.0.0.1:1/0",
        "redis://me:secret-word@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=secret-word",
    ],
)
def test_no_error_shows_the_password(
    urls: Callable[[str], None], impatient: None, url: str
) -> None:
    urls(url)

    with pytest.raises(errors.BusError) as failure:
        bus.list_agents()

    assert "secret-word" not in str(failure.value)


# --- a server that does not answer, or refuses

CALLS: dict[str, Callable[[], Any]] = {
    "enqueue_task": lambda: bus.enqueue_task("demo", 1),
    "tail_results": lambda: bus.tail_results("demo"),
    "register_agent": lambda: bus.register_agent("a", "t"),
    "heartbeat_agent": lambda: bus.heartbeat_agent("a"),
    "list_agents": lambda: bus.list_agents(),
    "create_consumer_group": lambda: bus.create_consumer_group("demo", "g"),
    "read_group": lambda: bus.read_group("demo", "g", "c", block_ms=0),
    "ack": lambda: bus.ack("demo", "g", "1-0"),
    "move_to_dead": lambda: bus.move_to_dead("demo", "1-0", {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_gone_is_never_an_empty_answer(
    urls: Callable[[str], None], impatient: None, name: str
) -> None:
    urls(DEAD_URL)

    with pytest.raises(errors.BusUnavailable, match="does not answer") as failure:
        CALLS[name]()

    assert failure.value.outcome == "not_written"  # nobody even listened
    assert isinstance(failure.value.__cause__, redis.RedisError)


def test_a_socket_that_does_not_exist_wrote_nothing_either(
    urls: Callable[[str], None], impatient: None, tmp_path: Path
) -> None:
    urls(f"unix://{tmp_path}/nobody.sock")

    with pytest.raises(errors.BusUnavailable) as failure:
        bus.enqueue_task("demo", 1)

    assert failure.value.outcome == "not_written"


def test_a_server_that_is_gone_says_what_to_do(
    urls: Callable[[str], None], impatient: None
) -> None:
    urls(DEAD_URL)

    with pytest.raises(errors.BusUnavailable, match="REDIS_URL"):
        bus.enqueue_task("demo", 1)


def test_a_wrong_password_is_named(
    redis_client: redis.Redis, urls: Callable[[str], None], impatient: None
) -> None:
    good = bus._redis_url()
    urls(f"redis://:wrong@{good.rpartition('@')[2]}")

    with pytest.raises(errors.BusUnavailable, match="credentials"):
        bus.list_agents()


def test_a_pool_in_use_to_the_last_connection_says_so(
    test_topic: str, settings: Settings, impatient: None
) -> None:
    settings.MESH_POOL_SIZE = 1
    bus.enqueue_task(test_topic, 1)
    pool = connection.writer().connection_pool
    held = pool.get_connection()

    with pytest.raises(errors.BusUnavailable, match="all connections") as failure:
        bus.enqueue_task(test_topic, 2)

    pool.release(held)
    assert failure.value.outcome == "not_written"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (redis.exceptions.OutOfMemoryError("used memory"), errors.BusUnavailable),
        (redis.exceptions.ReadOnlyError("replica"), errors.BusUnavailable),
        (redis.exceptions.BusyLoadingError("loading"), errors.BusUnavailable),
        (redis.exceptions.MasterDownError("down"), errors.BusUnavailable),
        (redis.exceptions.ClusterDownError("down"), errors.BusUnavailable),
        (redis.exceptions.TryAgainError("again"), errors.BusUnavailable),
        (redis.ResponseError("MISCONF cannot persist"), errors.BusUnavailable),
        (redis.ResponseError("NOREPLICAS too few"), errors.BusUnavailable),
        (redis.ResponseError("UNBLOCKED role changed"), errors.BusUnavailable),
        (redis.ResponseError("BUSY a script"), errors.BusUnavailable),
        (redis.AuthenticationError("WRONGPASS"), errors.BusUnavailable),
        (redis.TimeoutError("timed out"), errors.OutcomeUnknown),
        (redis.ConnectionError("reset by peer"), errors.OutcomeUnknown),
        (OSError("broken pipe"), errors.OutcomeUnknown),
        (redis.ResponseError("WRONGTYPE not a stream"), errors.BusError),
        (redis.exceptions.NoPermissionError("no"), errors.BusError),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_every_refusal_of_redis_leaves_as_an_error_of_ours(
    urls: Callable[[str], None], reply: Exception, error: type[errors.BusError]
) -> None:
    urls(DEAD_URL)

    assert type(connection.mapped(reply, wrote=True)) is error


def fail_first(
    monkeypatch: pytest.MonkeyPatch, failures: list[Exception], *, executed: bool
) -> list[str]:
    """The first scripts fail, after the server `executed` them or before; what ran."""
    real = redis.Redis.execute_command
    sent: list[str] = []

    def execute(client: redis.Redis, *args: Any, **options: Any) -> Any:
        if args[0] != "EVALSHA":
            return real(client, *args, **options)
        sent.append(args[1])
        reply = None
        if executed or not failures:
            reply = real(client, *args, **options)
        if failures:
            raise failures.pop(0)
        return reply

    monkeypatch.setattr(redis.Redis, "execute_command", execute)
    return sent


def refused() -> Exception:
    """What redis-py raises when nobody listens."""
    error = redis.ConnectionError("Error 111 connecting")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    return error


@pytest.mark.parametrize("executed", [True, False], ids=["lost reply", "not sent"])
def test_an_answer_that_passes_is_worth_another_try(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, executed: bool
) -> None:
    bus.enqueue_task(test_topic, 0)
    lost = [redis.ConnectionError("reset"), redis.TimeoutError("timed out")]
    sent = fail_first(monkeypatch, list(lost), executed=executed)

    task_id = bus.enqueue_task(test_topic, 1)

    assert len(sent) == 3
    assert bus.get_task(task_id, test_topic).payload == 1
    assert bus.stats(test_topic)["backlog"] == 2


def test_a_refusal_that_stays_is_not_tried_again(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 0)
    wrong = redis.ResponseError("WRONGTYPE not a stream")
    sent = fail_first(monkeypatch, [wrong] * 9, executed=False)

    with pytest.raises(errors.BusError, match="WRONGTYPE"):
        bus.enqueue_task(test_topic, 1)

    assert len(sent) == 1


def test_a_lost_answer_is_an_unknown_outcome(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    bus.enqueue_task(test_topic, 0)
    fail_first(monkeypatch, [redis.TimeoutError("late")] * 99, executed=True)

    with pytest.raises(errors.OutcomeUnknown) as failure:
        bus.enqueue_task(test_topic, 1)

    assert failure.value.outcome == "unknown"


@pytest.mark.parametrize(
    "afterwards",
    [refused(), redis.exceptions.ReadOnlyError("a replica now")],
    ids=["then gone", "then a replica"],
)
def test_an_outcome_once_unknown_stays_unknown(
    test_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
    afterwards: Exception,
) -> None:
    """The first send was executed, so `not_written` would be a lie."""
    bus.enqueue_task(test_topic, 0)
    lost = redis.ConnectionError("reset")
    sent: list[Exception] = []
    real = redis.Redis.execute_command

    def execute(client: redis.Redis, *args: Any, **options: Any) -> Any:
        if args[0] == "EVALSHA" and sent:
            raise afterwards
        reply = real(client, *args, **options)
        if args[0] == "EVALSHA":
            sent.append(lost)
            raise lost
        return reply

    monkeypatch.setattr(redis.Redis, "execute_command", execute)

    with pytest.raises(errors.BusUnavailable) as failure:
        bus.enqueue_task(test_topic, 1)

    monkeypatch.setattr(redis.Redis, "execute_command", real)
    assert bus.stats(test_topic)["backlog"] == 2
    assert failure.value.outcome == "unknown"


def test_tasks_survive_a_connection_that_comes_and_goes(
    test_topic: str,
    failure_simulator: FailureSimulator,
    concurrency_metrics: Figures,
) -> None:
    bus.enqueue_task(test_topic, -1)
    failure_simulator.intermittent(0.3)

    def send() -> None:
        for n in range(20):
            with concurrency_metrics.measure():
                bus.enqueue_task(test_topic, n)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    failure_simulator.heal()
    assert failure_simulator.failed > 10
    assert concurrency_metrics.errors == []
    assert bus.stats(test_topic)["backlog"] == 81


# --- task_stream, result_stream, dead_stream, agent_key


def test_the_founding_keys(test_topic: str) -> None:
    assert bus.task_stream(test_topic) == f"stream:tasks:{{{test_topic}}}"
    assert bus.result_stream(test_topic) == f"stream:results:{{{test_topic}}}"
    assert bus.dead_stream(test_topic) == f"stream:dead:{{{test_topic}}}"
    assert bus.agent_key("resizer-1") == "mesh:agent:{agents}:resizer-1"


HOSTILE: dict[str, Callable[[str], Any]] = {
    "task_stream": bus.task_stream,
    "result_stream": bus.result_stream,
    "dead_stream": bus.dead_stream,
    "enqueue_task": lambda topic: bus.enqueue_task(topic, 1),
    "enqueue_many": lambda topic: bus.enqueue_many(topic, [1]),
    "tail_results": bus.tail_results,
    "create_consumer_group": lambda topic: bus.create_consumer_group(topic, "g"),
    "read_group": lambda topic: bus.read_group(topic, "g", "c", block_ms=0),
    "ack": lambda topic: bus.ack(topic, "g", "1-0"),
    "move_to_dead": lambda topic: bus.move_to_dead(topic, "1-0", {}),
    "list_dead": bus.list_dead,
    "dead_groups": bus.dead_groups,
    "replay": lambda topic: bus.replay(topic, TASK_ID),
    "discard": lambda topic: bus.discard(topic, TASK_ID),
    "undo": lambda topic: bus.undo(topic, TASK_ID),
    "cancel": lambda topic: bus.cancel(TASK_ID, topic),
    "get_task": lambda topic: bus.get_task(TASK_ID, topic),
    "wait_result": lambda topic: bus.wait_result(TASK_ID, topic),
    "stats": bus.stats,
    "pause": bus.pause,
    "set_limits": lambda topic: bus.set_limits(topic, results_keep=1),
}


@pytest.mark.parametrize("topic", ["a}{b", "*", "../x", "x" * 65, "ａ", "a\n", "a."])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_function_takes_a_hostile_topic(
    redis_client: redis.Redis, name: str, topic: str
) -> None:
    with pytest.raises(errors.InvalidName, match="topic"):
        HOSTILE[name](topic)

    assert redis_client.dbsize() == 0


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

    assert list(fields.items()) == [("id", task_id), ("json", '{"a":"ä"}'), ("meta", "")]


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
    + [{"timeout_s": bad} for bad in (0, -1, float("nan"), "5", True, 1e9)]
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
