"""Clients and their limits; what callers see when Redis does not answer or refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, lines, refusals
from tests.support import packed
from tests.support.figures import Figures
from tests.support.nemesis import FailureSimulator

# Nobody listens there: it is a privileged port that no test server takes.
DEAD_URL = "redis://127.0.0.1:1/0"


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets REDIS_URL for the code under test."""
    connection.reset()
    yield lambda url: monkeypatch.setenv("REDIS_URL", url)
    connection.reset()


@pytest.fixture
def impatient(settings: Settings) -> None:
    """Calls that find no server give up after a moment."""
    settings.MESH_SEND_RETRY_S = 0.05


def options_of(client: Any) -> dict[str, Any]:
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    return options


def test_a_forked_child_gets_connections_of_its_own(
    urls: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls("redis://one:6379/0")
    parent = bus.get_redis()
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert bus.get_redis().connection_pool is not parent.connection_pool


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

    retry = connection.dedicated_options()["retry"]

    assert retry.get_retries() == 0


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
        "redis://host/0?protocol=9",
        "redis://host/0?ssl_cert_reqs=none",
        "rediss://host/0?ssl_no_such_option=1",
        "rediss://host/0?ssl_cert_reqs=sometimes",
        "rediss://host/0?ssl_min_version=5",
        "rediss://host/0?ssl_ca_certs=/no/such/file",
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
    ("option", "said"),
    [
        ("socket_timeout=1", "leave out socket_timeout; .*MESH_SOCKET_TIMEOUT_S"),
        ("socket_connect_timeout=1", "MESH_SOCKET_TIMEOUT_S"),
        ("timeout=1", "MESH_SOCKET_TIMEOUT_S"),
        ("health_check_interval=1", "MESH_HEALTH_CHECK_S"),
        ("max_connections=1", "MESH_POOL_SIZE"),
        ("client_name=shop", "leave out client_name; it may say db, .*, and .* ssl_"),
        ("decode_responses=False", "leave out decode_responses"),
        ("encoding=latin-1", "leave out encoding;"),
        ("encoding_errors=strict", "leave out encoding_errors"),
        ("retry_on_timeout=True", "leave out retry_on_timeout"),
        ("legacy_responses=False", "leave out legacy_responses"),
    ],
)
def test_a_url_overrules_nothing_that_the_mesh_relies_on(
    urls: Callable[[str], None], option: str, said: str
) -> None:
    """redis-py lets it: a wait would be cut short, an agent that lives look dead."""
    urls(f"redis://host/0?{option}")

    for make in (connection.writer, connection.dedicated, connection.adedicated):
        with pytest.raises(errors.InvalidOption, match=said):
            make()


def test_a_url_may_say_who_asks_for_what_and_how_far_tls_goes(
    urls: Callable[[str], None],
) -> None:
    login = "username=me&password=secret&db=3&protocol=2&socket_keepalive=False"
    urls(f"rediss://host?{login}&ssl_cert_reqs=none&ssl_check_hostname=False")

    options = options_of(bus.get_redis())

    assert (options["username"], options["db"], options["protocol"]) == ("me", 3, 2)
    assert options["ssl_cert_reqs"] == "none"


def test_get_redis_follows_the_url(urls: Callable[[str], None]) -> None:
    urls("redis://one:6379/0")
    first = bus.get_redis()
    urls("redis://two:6379/0")

    second = bus.get_redis()

    assert (options_of(first)["host"], options_of(second)["host"]) == ("one", "two")


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
    settings.MESH_SOCKET_TIMEOUT_S = 0.1  # also how long one waits for a connection
    bus.enqueue_task(test_topic, 1)
    pool = connection.writer()

    with (
        pool.line(),
        pytest.raises(errors.BusUnavailable, match="all connections") as failure,
    ):
        bus.enqueue_task(test_topic, 2)

    assert failure.value.outcome == "not_written"


def test_a_thread_beyond_the_last_connection_waits_for_one(
    test_topic: str, settings: Settings, concurrency_metrics: Figures
) -> None:
    settings.MESH_POOL_SIZE = 2

    def send() -> None:
        for n in range(10):
            with concurrency_metrics.measure():
                bus.enqueue_task(test_topic, n)

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert concurrency_metrics.errors == []
    assert bus.stats(test_topic)["backlog"] == 120


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
        (redis.ResponseError("WRONGTYPE not a stream"), refusals.DamagedKey),
        (redis.ResponseError("EXHAUSTED a:key script"), refusals.DamagedKey),
        (redis.exceptions.NoPermissionError("no"), errors.BusError),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_every_refusal_of_redis_leaves_as_an_error_of_ours(
    urls: Callable[[str], None], reply: Exception, error: type[errors.BusError]
) -> None:
    urls(DEAD_URL)

    assert type(refusals.mapped(reply, wrote=True)) is error


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (redis.exceptions.OutOfMemoryError("used memory"), "memory_full"),
        (redis.exceptions.ReadOnlyError("replica"), "read_only"),
        (redis.ResponseError("MISCONF cannot persist"), "disk_failing"),
        (redis.ResponseError("NOREPLICAS too few"), "replicas_missing"),
        (redis.ResponseError("BUSY a script"), "bus_unavailable"),
        (redis.exceptions.BusyLoadingError("loading"), "bus_unavailable"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_redis_refuses_for_is_told_by_the_code(
    reply: Exception, code: str
) -> None:
    assert refusals.mapped(reply).code == code
    assert errors.BusUnavailable.code == "bus_unavailable"  # that of one refusal only


def fail_first(
    monkeypatch: pytest.MonkeyPatch, failures: list[Exception], *, executed: bool
) -> list[str]:
    """The first scripts fail, after the server `executed` them or before; what ran."""
    real = lines.Lines.execute_packed
    sent: list[str] = []

    def execute(client: lines.Lines, data: bytes, *meanwhile: Any) -> Any:
        sha = packed.sha_of(data)
        if not sha:
            return real(client, data, *meanwhile)
        sent.append(sha)
        reply = None
        if executed or not failures:
            reply = real(client, data, *meanwhile)
        if failures:
            raise failures.pop(0)
        return reply

    monkeypatch.setattr(lines.Lines, "execute_packed", execute)
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

    with pytest.raises(refusals.DamagedKey, match="another kind of value"):
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
    real = lines.Lines.execute_packed

    def execute(client: lines.Lines, data: bytes, *meanwhile: Any) -> Any:
        is_script = bool(packed.sha_of(data))
        if is_script and sent:
            raise afterwards
        reply = real(client, data, *meanwhile)
        if is_script:
            sent.append(lost)
            raise lost
        return reply

    monkeypatch.setattr(lines.Lines, "execute_packed", execute)

    with pytest.raises(errors.BusUnavailable) as failure:
        bus.enqueue_task(test_topic, 1)

    monkeypatch.setattr(lines.Lines, "execute_packed", real)
    assert bus.stats(test_topic)["backlog"] == 2
    assert failure.value.outcome == "unknown"


def test_tasks_survive_a_connection_that_comes_and_goes(
    test_topic: str,
    failure_simulator: FailureSimulator,
    concurrency_metrics: Figures,
) -> None:
    bus.enqueue_task(test_topic, -1)
    failure_simulator.intermittent(0.1)

    def send() -> None:
        for n in range(25):
            with concurrency_metrics.measure():
                bus.enqueue_task(test_topic, n)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    failure_simulator.heal()
    assert failure_simulator.failed >= 5
    assert concurrency_metrics.errors == []
    assert bus.stats(test_topic)["backlog"] == 101


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret-word@host:6379/0",
        "redis://me:secret-word@host:x/0",
        "redis://:secret-word@[::1/0",
        "redis://:secret-word@127.0.0.1:1/0",
        "redis://me:secret-word@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=secret-word",
        "rediss://127.0.0.1:1/0?db=1&ssl_password=secret-word&protocol=3",
    ],
)
def test_no_error_shows_the_password(
    urls: Callable[[str], None], impatient: None, url: str
) -> None:
    urls(url)

    with pytest.raises(errors.BusError) as failure:
        bus.list_agents()

    assert "secret-word" not in str(failure.value)


async def goes_over_both_kinds(topic: str) -> None:
    await bus.aenqueue_task(topic, {})
    await connection.awire().execute_command("PING")


def test_the_connections_of_a_loop_end_with_it(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Each `asyncio.run` has a loop of its own, as each `async_to_sync` of a thread."""
    before = len(redis_client.client_list())

    for _ in range(8):
        asyncio.run(goes_over_both_kinds(test_topic))

    assert len(redis_client.client_list()) <= before


def test_without_a_mesh_the_folder_and_both_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.REDIS_URL, settings.MESH_VAR_DIR = "", str(tmp_path / "var")

    said = str(refusals.mapped(redis.ConnectionError("no such host")))

    for each in (f"in {tmp_path}/var:", "`make run`", "MESH_VAR_DIR", "or REDIS_URL"):
        assert each in said, said


@pytest.mark.parametrize("named", ["", "elsewhere"])
def test_a_script_without_settings_finds_a_mesh_by_its_folder(
    tmp_path: Path, named: str
) -> None:
    of_django = {"DJANGO_SETTINGS_MODULE", "REDIS_URL", "MESH_VAR_DIR"}
    env = {name: text for name, text in os.environ.items() if name not in of_django}
    env |= {"PYTHONPATH": str(Path(bus.__file__).parents[1])}
    if named:
        env["MESH_VAR_DIR"] = str(tmp_path / named)
    announced = tmp_path / (named or "var") / "redis" / "url"
    announced.parent.mkdir(parents=True)
    announced.write_text("unix:///there")

    told = subprocess.run(
        [sys.executable, "-c", "import bus; print(bus._redis_url())"],
        **{"cwd": tmp_path, "env": env, "capture_output": True, "text": True},
        check=True,
        timeout=60,
    )

    assert told.stdout.strip() == "unix:///there"
