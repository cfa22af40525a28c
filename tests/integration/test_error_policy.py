"""Each reply of Redis: which error it becomes, what it leaves open, who repeats it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, lines, scripts
from bus.api import exceptions
from bus.refusals import DamagedKey
from bus.server import EmbeddedServer
from tests.support.scripted import ACCEPTED, CUT, ScriptedServer
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

NOT_WRITTEN, UNKNOWN, BUG = "not_written", "unknown", ""


@dataclass(frozen=True)
class Row:
    """A reply, the error it becomes where it stays, and whether it is repeated."""

    reply: bytes
    error: type[errors.BusError]
    outcome: str
    repeated: bool
    status: int = 503


def said(text: str) -> bytes:
    return f"-{text}\r\n".encode()


_AWAY, _LOST, _OURS = errors.BusUnavailable, errors.OutcomeUnknown, errors.BusError
TABLE = {
    "OOM": Row(said("OOM command not allowed"), _AWAY, NOT_WRITTEN, False),
    "MISCONF": Row(said("MISCONF errors writing"), _AWAY, NOT_WRITTEN, False),
    "NOREPLICAS": Row(said("NOREPLICAS Not enough"), _AWAY, NOT_WRITTEN, False),
    "READONLY": Row(said("READONLY You can't write"), _AWAY, NOT_WRITTEN, True),
    "UNBLOCKED": Row(said("UNBLOCKED force unblock"), _AWAY, NOT_WRITTEN, True),
    "LOADING": Row(said("LOADING the dataset"), _AWAY, NOT_WRITTEN, True),
    "MASTERDOWN": Row(said("MASTERDOWN Link is down"), _AWAY, NOT_WRITTEN, True),
    "CLUSTERDOWN": Row(said("CLUSTERDOWN Hash slot"), _AWAY, NOT_WRITTEN, True),
    "TRYAGAIN": Row(said("TRYAGAIN Multiple keys"), _AWAY, NOT_WRITTEN, True),
    "BUSY": Row(said("BUSY Redis is busy"), _AWAY, NOT_WRITTEN, True),
    "ASK": Row(said("ASK 1 127.0.0.1:1"), _AWAY, NOT_WRITTEN, True),
    "MOVED": Row(said("MOVED 1 127.0.0.1:1"), _AWAY, NOT_WRITTEN, False),
    "CROSSSLOT": Row(said("CROSSSLOT Keys in request"), _OURS, BUG, False, 500),
    "WRONGTYPE": Row(said("WRONGTYPE Operation"), DamagedKey, BUG, False, 503),
    "NOPERM": Row(said("NOPERM this user"), _OURS, BUG, False, 500),
    "NOGROUP": Row(said("NOGROUP No such key"), _OURS, BUG, False, 500),
    "no answer": Row(CUT, _LOST, UNKNOWN, True),
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Any]:
    """`scripted(*replies)`: a server under test that answers enqueue with these."""
    # Where a machine stalls for as long after the first send there is no second one.
    settings.MESH_SEND_RETRY_S = 1.0
    with contextlib.ExitStack() as stack:

        def start(*replies: bytes) -> ScriptedServer:
            server = stack.enter_context(ScriptedServer(*replies))
            monkeypatch.setenv("REDIS_URL", server.url)
            return server

        yield start
        connection.reset()


def judged(failure: BaseException) -> tuple[type, str, int]:
    assert isinstance(failure, errors.BusError)
    problem = exceptions.problem_of(failure)
    outcome = getattr(failure, "outcome", "")
    return type(failure), outcome, 500 if problem is None else problem.status


def send() -> str:
    return bus.enqueue_task("demo", 1)


def asend() -> str:
    return asyncio.run(bus.aenqueue_task("demo", 1))


BOTH = pytest.mark.parametrize("call", [send, asend], ids=["sync", "async"])


@BOTH
@pytest.mark.parametrize("name", TABLE)
def test_a_reply_that_stays_becomes_our_error(
    scripted: Callable[..., ScriptedServer], call: Callable[[], str], name: str
) -> None:
    row = TABLE[name]
    server = scripted(row.reply)

    with Stalls() as stalls, pytest.raises(errors.BusError) as failure:
        call()

    assert judged(failure.value) == (row.error, row.outcome, row.status)
    assert (len(server.sends) > 1) == row.repeated or stalls.total_s > 0.5
    if row.outcome == UNKNOWN:
        assert len(failure.value.task_ids) == 1  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].repeated])
def test_a_reply_that_passes_is_not_noticed(
    scripted: Callable[..., ScriptedServer],
    settings: Settings,
    call: Callable[[], str],
    name: str,
) -> None:
    settings.MESH_SEND_RETRY_S = 30.0
    server = scripted(TABLE[name].reply, ACCEPTED)

    assert call()

    assert len(server.sends) == 2


@BOTH
def test_a_script_the_server_forgot_is_sent_whole(
    scripted: Callable[..., ScriptedServer], call: Callable[[], str]
) -> None:
    server = scripted(said("NOSCRIPT No matching script"), ACCEPTED)

    assert call()

    assert server.sends == ["EVALSHA", "EVAL"]


@BOTH
def test_one_send_without_an_answer_leaves_it_open_whatever_comes_after(
    scripted: Callable[..., ScriptedServer], call: Callable[[], str]
) -> None:
    scripted(CUT, said("OOM command not allowed"))

    with pytest.raises(errors.OutcomeUnknown):
        call()


@BOTH
@pytest.mark.parametrize("word", lines.ELSEWHERE)
def test_the_wrong_server_is_left_behind(
    scripted: Callable[..., ScriptedServer],
    settings: Settings,
    call: Callable[[], str],
    word: str,
) -> None:
    """Behind the same address another one may have taken over: connect anew."""
    settings.MESH_SEND_RETRY_S = 30.0
    server = scripted(said(f"{word} not here"), ACCEPTED)
    scripts._known_topics[(server.url, "demo")] = math.inf

    call()

    assert server.connections == 2


def test_a_wire_leaves_the_wrong_server_as_well(
    scripted: Callable[..., ScriptedServer], settings: Settings
) -> None:
    settings.MESH_SEND_RETRY_S = 30.0
    server = scripted(said("READONLY not here"), ACCEPTED)

    async def run() -> Any:
        wire = connection.adedicated()
        args = ["1", "1", "", "", "id", "", "", "1"]
        try:
            return await scripts.arun("enqueue", "demo", args, client=wire)
        finally:
            await wire.aclose()

    assert asyncio.run(run()) == ["1-0"]
    assert server.connections == 2


def _over_a_wire() -> None:
    async def run() -> None:
        args = ["1", "1", "", "", "id", "", "", "1"]
        await scripts.arun("enqueue", "demo", args, client=connection.awire())

    asyncio.run(run())


@pytest.mark.parametrize("call", [send, asend, _over_a_wire])
def test_reads_leave_the_wrong_server_with_the_writes(
    scripted: Callable[..., ScriptedServer],
    settings: Settings,
    call: Callable[[], object],
) -> None:
    """One that was demoted goes on answering them, from what it knew."""
    settings.MESH_SEND_RETRY_S = 30.0
    server = scripted(said("READONLY not here"), ACCEPTED)
    bus.get_redis().ping()

    call()
    before = server.connections
    bus.get_redis().ping()

    assert server.connections == before + 1


def test_what_is_no_redis_is_said_to_be_none(
    scripted: Callable[..., ScriptedServer],
) -> None:
    scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(errors.BusUnavailable):
        send()


# --- what a real server can be made to say

Provoke = Callable[[redis.Redis, str], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def option(client: redis.Redis, name: str, value: Any) -> Iterator[None]:
    found: Any = client.config_get(name)
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, found[name])


@contextlib.contextmanager
def full(client: redis.Redis, topic: str) -> Iterator[None]:
    with option(client, "maxmemory", 1):
        yield


@contextlib.contextmanager
def without_replicas(client: redis.Redis, topic: str) -> Iterator[None]:
    with option(client, "min-replicas-to-write", 1):
        yield


@contextlib.contextmanager
def demoted(client: redis.Redis, topic: str) -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def cannot_save(client: redis.Redis, topic: str) -> Iterator[None]:
    """A snapshot that fails: its name belongs to a directory."""
    found: Any = client.config_get("dir")
    taken = Path(found["dir"]) / "dump.rdb"
    taken.unlink(missing_ok=True)
    taken.mkdir()
    with option(client, "save", "3600 1000000"):
        client.bgsave()
        wait_until(lambda: _saved(client) == "err", 10)
        try:
            yield
        finally:
            taken.rmdir()
            client.bgsave()
            wait_until(lambda: _saved(client) == "ok", 10)
            taken.unlink()


def _saved(client: redis.Redis) -> str:
    facts: Any = client.info("persistence")
    running = facts["rdb_bgsave_in_progress"]
    return "" if running else str(facts["rdb_last_bgsave_status"])


@contextlib.contextmanager
def busy(client: redis.Redis, topic: str) -> Iterator[None]:
    """Somebody's script runs on and on."""
    with option(client, "busy-reply-threshold", 10):
        options = client.connection_pool.connection_kwargs
        other = redis.Redis(
            host=options["host"], port=options["port"], password=options["password"]
        )

        def loop() -> None:
            with contextlib.suppress(redis.RedisError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=loop)
        thread.start()
        wait_until(lambda: _is_busy(client), 5)
        try:
            yield
        finally:
            client.script_kill()
            thread.join()
            other.close()


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as exc:
        return "BUSY" in str(exc)
    return False


@contextlib.contextmanager
def sabotaged(client: redis.Redis, topic: str) -> Iterator[None]:
    index = f"mesh:{{{topic}}}:done"
    client.set(index, "no index")
    try:
        yield
    finally:
        client.delete(index)


REAL: dict[str, Provoke] = {
    "OOM": full,
    "NOREPLICAS": without_replicas,
    "READONLY": demoted,
    "MISCONF": cannot_save,
    "BUSY": busy,
    "WRONGTYPE": sabotaged,
}
SAYS = {"WRONGTYPE": "holds another kind of value"}


@pytest.mark.parametrize("name", REAL)
def test_a_real_server_says_it_and_nothing_is_written(
    test_topic: str, redis_client: redis.Redis, settings: Settings, name: str
) -> None:
    settings.MESH_SEND_RETRY_S = 0.1
    bus.enqueue_task(test_topic, 0)
    row = TABLE[name]

    with (
        REAL[name](redis_client, test_topic),
        pytest.raises(errors.BusError, match=SAYS.get(name, name)) as failure,
    ):
        bus.enqueue_task(test_topic, 1)

    assert judged(failure.value) == (row.error, row.outcome, row.status)
    assert bus.stats(test_topic)["backlog"] == 1
    bus.enqueue_task(test_topic, 2)  # as soon as it is over


def test_a_server_that_comes_up_again_has_forgotten_the_scripts(
    own_server: EmbeddedServer,
) -> None:
    first = bus.enqueue_task("demo", 1)
    bus.get_redis().script_flush()

    second = bus.enqueue_task("demo", 2)

    assert bus.get_task(first, "demo").state == bus.get_task(second, "demo").state


def test_a_group_that_was_destroyed_is_made_again(test_topic: str) -> None:
    bus.create_consumer_group(test_topic, "workers")
    task_id = bus.enqueue_task(test_topic, 1)
    bus.get_redis().xgroup_destroy(bus.task_stream(test_topic), "workers")

    [(_, fields)] = bus.read_group(test_topic, "workers", "me", block_ms=0)

    assert fields["id"] == task_id
