"""What an acknowledgement is worth: levels reached, not reached, not to be had."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

import bus
from bus import connection, errors, keys, levels, refusals, settled, tasks, testing
from bus.server import EmbeddedServer
from bus.tasks import Wanted
from tests.support import replicas
from tests.support.api import api, problem
from tests.support.desk import Desk
from tests.support.replicas import Replica
from tests.support.waiting import wait_until

FEW_S = 1.0  # a wait that is in vain; for a replica that goes on it is to be enough


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[EmbeddedServer, Replica]]:
    """A primary with one replica, for tests that leave both as they were."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        EmbeddedServer(folder / "primary", port=0) as primary,
        replicas.following(primary, folder / "replica") as replica,
    ):
        yield primary, replica


@pytest.fixture
def replica(
    pair: tuple[EmbeddedServer, Replica], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Replica]:
    """The replica of the server under test."""
    primary, replica = pair
    monkeypatch.setenv("REDIS_URL", primary.url)
    levels.forget()
    yield replica
    connection.reset()
    levels.forget()


@pytest.fixture
def own_pair(
    own_server: EmbeddedServer, tmp_path: Path
) -> Iterator[tuple[EmbeddedServer, Replica]]:
    """A primary to be killed, and its replica."""
    levels.forget()
    with replicas.following(own_server, tmp_path / "replica") as replica:
        yield own_server, replica
    levels.forget()


@pytest.fixture
def topic() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def impatient(settings: Settings) -> None:
    settings.MESH_DURABILITY_TIMEOUT_S = FEW_S


def own_id() -> str:
    return str(uuid.uuid4())


def has(client: redis.Redis, topic: str, task_id: str) -> bool:
    return bool(client.hexists(f"mesh:{{{topic}}}:tasks", task_id))


# --- the words


@pytest.mark.parametrize(
    "text", ["memory", "aof", "fsync", "replicated:1", "replicated:9"]
)
def test_a_level_reads_as_it_is_written(text: str) -> None:
    assert str(levels.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "AOF", "replicated", "replicated:0", "replicated:10", "fsync:1", "aof\n", 1],
)
def test_what_is_no_level_is_refused(text: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="replicated:k"):
        levels.parse(text)


def test_a_setting_that_is_no_level_is_named(
    redis_client: redis.Redis, topic: str, settings: Settings
) -> None:
    settings.MESH_DURABILITY = "twice"

    with pytest.raises(errors.InvalidOption, match="MESH_DURABILITY"):
        bus.enqueue_task(topic, 1)


@pytest.mark.parametrize(
    ("facts", "wanted", "lack"),
    [
        ({"aof_enabled": 1, "appendfsync": "always"}, "fsync", ""),
        ({"aof_enabled": 1, "appendfsync": "everysec"}, "fsync", "before it syncs"),
        ({"aof_enabled": 1, "appendfsync": "no"}, "fsync", "before it syncs"),
        ({"aof_enabled": 1}, "fsync", "may not see"),
        ({"aof_enabled": 0, "appendfsync": "always"}, "fsync", "append-only"),
        ({"aof_enabled": 0}, "aof", "append-only"),
        ({"aof_enabled": 1, "appendfsync": "no"}, "aof", ""),
        ({"connected_slaves": 1}, "replicated:1", ""),
        ({"connected_slaves": 1}, "replicated:2", "1 replica"),
        ({}, "replicated:1", "no replica"),
    ],
)
def test_a_server_lacks_what_it_is_not_set_to_do(
    facts: dict[str, Any], wanted: str, lack: str
) -> None:
    server = levels.server_of(facts)

    found = server.lacks(levels.parse(wanted))

    assert lack in found
    assert bool(found) == bool(lack)


# --- replicated


def test_an_acknowledged_task_is_on_the_replica(replica: Replica, topic: str) -> None:
    task_id = bus.enqueue_task(topic, {"n": 1}, durability="replicated:1")

    assert has(replica.client, topic, task_id)


def test_a_batch_waits_once(
    replica: Replica, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = settled._Round.ask
    monkeypatch.setattr(
        settled._Round, "ask", lambda self: asked.append(1) or real(self)
    )

    ids = bus.enqueue_many(topic, range(950), durability="replicated:1")
    wanted = [(f"{topic}-{n}", Wanted(n)) for n in range(30)]
    tasks.accept_each(wanted, "replicated:1")

    assert asked == [1, 1]
    assert len(ids) == replica.client.hlen(f"mesh:{{{topic}}}:tasks") == 950


def test_a_topic_that_somebody_damaged_refuses_its_own_tasks_only(
    replica: Replica, topic: str
) -> None:
    damaged = keys.named("tasks", f"{topic}-2")
    bus.get_redis().set(damaged, "not ours")
    wanted = [(topic, Wanted(1)), (f"{topic}-2", Wanted(2)), (topic, Wanted(3))]

    def awaited(*args: Any) -> Any:
        return asyncio.run(tasks.aaccept_each(*args))

    for accepted in (tasks.accept_each, awaited):
        first, second, third = accepted(wanted, "replicated:1")
        assert (first.state, third.state) == ("waiting", "waiting")
        assert isinstance(second.error, refusals.DamagedKey)
        assert second.error.key == damaged


@pytest.mark.django_db
def test_a_stopped_replica_makes_no_task_replicated(
    replica: Replica, topic: str, impatient: None
) -> None:
    """The same send again succeeds once the replica is back; no task is there twice."""
    client, body = api(), {"topic": topic, "task": 1, "durability": "replicated:1"}
    with replica.stopped():
        refused = client.post("enqueue", body)
        plain = client.post("enqueue", {**body, "durability": "aof"})
    document = problem(refused, 503, "level_not_reached")
    again = client.post("enqueue", {**body, "id": document["id"]})

    assert document["outcome"] == "unknown"
    assert int(refused["Retry-After"]) >= 1
    assert (plain.status_code, plain.json()["durability"]) == (201, "aof")
    assert (again.status_code, again.json()["durability"]) == (200, "replicated:1")
    assert bus.stats(topic)["backlog"] == 2
    assert has(replica.client, topic, document["id"])


@pytest.mark.django_db
def test_tasks_of_a_transaction_wait_together_once_one_has_waited_in_vain(
    replica: Replica,
    topic: str,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    asked: list[Any] = []
    real = settled._Round.ask
    monkeypatch.setattr(
        settled._Round, "ask", lambda self: asked.append(1) or real(self)
    )
    ids: list[str] = []
    with (
        replica.stopped(),
        pytest.raises(errors.LevelNotReached) as caught,
        django_capture_on_commit_callbacks(execute=True),
    ):
        ids += [
            bus.enqueue_task(topic, n, durability="replicated:1", on_commit=True)
            for n in range(5)
        ]

    assert asked == [1, 1]
    assert bus.stats(topic)["backlog"] == 5
    notes = caught.value.__notes__
    assert all(task_id in note for task_id, note in zip(ids, notes, strict=True))


@pytest.mark.django_db
def test_a_second_run_that_is_not_replicated_says_which_task_it_is(
    replica: Replica, topic: str, impatient: None, settings: Settings
) -> None:
    """The same key again is the same run, and a success once the replica is back."""
    client, desk = api(), Desk(topic)
    done = bus.enqueue_task(topic, 1)
    desk.complete(desk.one())
    settings.MESH_DURABILITY = "replicated:1"
    url, key = f"tasks/{done}/run", {"Idempotency_Key": "click"}

    with replica.stopped():
        document = problem(client.post(url, **key), 503, "level_not_reached")
    again = client.post(url, **key)

    new = document["id"]
    assert bus.get_task(new, topic).again_of == done != new
    assert (again.status_code, again.json()["id"]) == (200, new)
    assert has(replica.client, topic, new)


@pytest.mark.parametrize("payload", [{"a": 1, "b": 2}, {"b": 2, "a": 1}], ids=str)
def test_a_repeat_on_another_connection_does_not_lie(
    replica: Replica, topic: str, impatient: None, payload: dict[str, int]
) -> None:
    """It finds the task, and must not take another connection's WAIT for its own."""
    own = own_id()
    bus.enqueue_task(topic, "warms the topic up", durability="replicated:1")
    with replica.stopped():
        bus.enqueue_task(topic, {"a": 1, "b": 2}, task_id=own, durability="aof")
        with pytest.raises(errors.LevelNotReached) as failure:
            bus.enqueue_task(topic, payload, task_id=own, durability="replicated:1")

    assert failure.value.task_ids == [own]
    assert failure.value.outcome == "unknown"
    bus.enqueue_task(topic, payload, task_id=own, durability="replicated:1")
    assert has(replica.client, topic, own)


def test_a_repeat_of_an_ended_task_does_not_lie_either(
    replica: Replica, topic: str, impatient: None
) -> None:
    own = bus.enqueue_task(topic, 1)
    bus.create_consumer_group(topic, "g")
    [(entry_id, _)] = bus.read_group(topic, "g", "me", block_ms=0)
    with replica.stopped():
        bus.ack(topic, "g", entry_id)
        with pytest.raises(errors.LevelNotReached):
            bus.enqueue_task(topic, 1, task_id=own, durability="replicated:1")

    bus.enqueue_task(topic, 1, task_id=own, durability="replicated:1")


def test_callers_that_wait_hold_up_nobody_else(
    replica: Replica, topic: str, settings: Settings
) -> None:
    settings.MESH_POOL_SIZE = 2
    settings.MESH_DURABILITY_TIMEOUT_S = 5.0
    bus.enqueue_task(topic, 0)
    found: list[str] = []

    def wait() -> None:
        found.append(bus.enqueue_task(topic, 1, durability="replicated:1"))

    waiting = [threading.Thread(target=wait) for _ in range(2)]
    with replica.stopped():
        for thread in waiting:
            thread.start()
        wait_until(lambda: bus.stats(topic)["backlog"] == 3)
        for n in range(20):
            bus.enqueue_task(topic, n)
        assert found == []
    for thread in waiting:
        thread.join()

    assert len(found) == 2


def test_the_asyncio_twin_waits_as_well(
    replica: Replica, topic: str, impatient: None
) -> None:
    async def send(count: int) -> list[tasks.Accepted]:
        wanted = [Wanted(n) for n in range(count)]
        return await tasks.aaccept(topic, wanted, "replicated:1")

    good = asyncio.run(send(250))
    with replica.stopped():
        bad = asyncio.run(send(250))

    assert {each.durability for each in good} == {"replicated:1"}
    assert {type(each.error) for each in bad} == {errors.LevelNotReached}
    assert asyncio.run(
        bus.aenqueue_task(topic, 0, task_id=bad[0].id, durability="replicated:1")
    )


@pytest.mark.django_db
def test_each_task_of_a_batch_has_its_own_level(
    replica: Replica, topic: str, impatient: None
) -> None:
    body = [
        {"topic": topic, "task": 1},
        {"topic": topic, "task": 2, "durability": "replicated:1"},
        {"topic": f"{topic}-b", "task": 3, "durability": "replicated:1"},
        {"topic": topic, "task": 4, "durability": "replicated:2"},
        {"topic": topic, "task": 5, "durability": "aof", "maxlen": 1},
    ]
    with replica.stopped():
        rows = api().post("enqueue/batch", {"tasks": body}).json()["results"]

    assert [row["status"] for row in rows] == [201, 503, 503, 422, 429]
    assert rows[0]["durability"] == "aof"
    unknown = [row["error"]["outcome"] for row in rows[1:3]]
    assert unknown == ["unknown", "unknown"]
    assert bus.stats(topic)["backlog"] == 2


def test_the_setting_is_the_level_of_who_names_none(
    replica: Replica, topic: str, impatient: None, settings: Settings
) -> None:
    settings.MESH_DURABILITY = "replicated:1"
    assert tasks.durability() == "replicated:1"
    bus.enqueue_task(topic, 1)
    with replica.stopped():
        with pytest.raises(errors.LevelNotReached):
            bus.enqueue_task(topic, 2)
        bus.enqueue_task(topic, 3, durability="memory")


@pytest.mark.parametrize("usual", ["seen", "set", ""])
def test_a_replica_that_is_missing_is_told_from_one_that_never_was(
    own_pair: tuple[EmbeddedServer, Replica],
    topic: str,
    settings: Settings,
    usual: str,
) -> None:
    """What may pass is 503 and worth another try; what may not is 422."""
    _, replica = own_pair
    if usual == "seen":
        bus.enqueue_task(topic, 0, durability="replicated:1")
    elif usual == "set":
        settings.MESH_DURABILITY = "replicated:1"
    replica.cut_off()
    levels._told.clear()

    with pytest.raises(errors.BusError, match="no replica") as failure:
        bus.enqueue_task(topic, 1, durability="replicated:1")

    wanted = errors.BusUnavailable if usual else errors.InvalidOption
    assert type(failure.value) is wanted
    assert bus.stats(topic)["backlog"] == (1 if usual == "seen" else 0)


@pytest.mark.parametrize("level", ["replicated:1", "aof"])
def test_g2_a_primary_lost_for_good_takes_along_what_was_not_replicated(
    own_pair: tuple[EmbeddedServer, Replica],
    topic: str,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
) -> None:
    """All that `replicated:1` acknowledged is on the promoted one; of `aof` not all."""
    primary, replica = own_pair
    acknowledged = bus.enqueue_many(topic, range(300), durability=level)
    # Of `aof` nobody has waited for the replica.
    wait_until(lambda: all(has(replica.client, topic, each) for each in acknowledged))
    replica.cut_off()
    try:
        acknowledged.append(bus.enqueue_task(topic, "too late", durability=level))
    except errors.LevelNotReached:
        assert level == "replicated:1"
    assert primary.pid is not None
    os.kill(primary.pid, signal.SIGKILL)
    monkeypatch.setenv("REDIS_URL", replica.promote())
    levels.forget()

    lost = [each for each in acknowledged if not has(replica.client, topic, each)]

    assert lost == ([] if level == "replicated:1" else acknowledged[300:])
    assert len(acknowledged) == (300 if level == "replicated:1" else 301)
    bus.enqueue_task(topic, "it goes on")


# --- fsync


@pytest.mark.parametrize(
    ("level", "option", "kept"),
    [
        ("fsync", ("appendfsync", "always"), True),
        ("aof", ("appendfsync", "everysec"), True),
        ("memory", ("appendonly", "no"), False),
    ],
)
def test_g2_a_killed_server_comes_back_with_what_its_file_has(
    own_server: EmbeddedServer, level: str, option: tuple[str, str], kept: bool
) -> None:
    """Every acknowledged task, or, where there is no file, what it had before."""
    bus.enqueue_task("demo", "in the file")
    bus.get_redis().config_set(*option)
    levels.forget()
    ids = bus.enqueue_many("demo", range(200), durability=level)
    ids.append(bus.enqueue_task("demo", 1, durability=level))
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGKILL)
    wait_until(lambda: not own_server.alive())
    own_server.start()

    waiting = [each for each in ids if has(bus.get_redis(), "demo", each)]

    assert waiting == (ids if kept else [])
    levels.forget()


def test_a_file_that_is_synced_later_is_not_said_to_be_synced(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Also where the operator changes it between two looks of ours."""
    redis_client.config_set("appendfsync", "always")
    levels.forget()
    try:
        bus.enqueue_task(test_topic, 0, durability="fsync")
        assert tasks.durability() == "fsync"
        redis_client.config_set("appendfsync", "everysec")
        with pytest.raises(errors.LevelNotReached) as failure:
            bus.enqueue_task(test_topic, 1, durability="fsync")
        with pytest.raises(errors.LevelNotReached):
            asyncio.run(bus.aenqueue_task(test_topic, 2, durability="fsync"))
        levels.forget()
        with pytest.raises(errors.InvalidOption, match="before it syncs"):
            bus.enqueue_task(test_topic, 3, durability="fsync")
        redis_client.config_set("appendfsync", "always")
        [own] = failure.value.task_ids
        bus.enqueue_task(test_topic, 1, task_id=own, durability="fsync")
    finally:
        redis_client.config_set("appendfsync", "everysec")
        levels.forget()
    assert bus.stats(test_topic)["backlog"] == 3


def test_the_embedded_server_syncs_first_where_that_is_promised(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_DURABILITY = "fsync"
    with EmbeddedServer(tmp_path / "redis", port=0) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        levels.forget()

        bus.enqueue_task("demo", 1)

        assert tasks.durability() == "fsync"
    connection.reset()
    levels.forget()


# --- trouble between the script and the wait


def test_a_connection_that_breaks_before_the_wait_is_made_again(
    replica: Replica, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is sent again: the other server, if it is one, may not have the first."""
    broken: list[str] = []
    real = settled._Round.ask

    def ask(self: Any) -> Any:
        command = real(self)
        if not broken:
            broken.append("once")
            raise redis.ConnectionError("simulated: reset")
        return command

    monkeypatch.setattr(settled._Round, "ask", ask)

    [outcome] = tasks.accept(topic, [Wanted(1)], "replicated:1")

    assert (outcome.error, outcome.new) == (None, False)  # its own repeat
    assert bus.stats(topic)["backlog"] == 1


@pytest.mark.parametrize(
    "trouble",
    [redis.ConnectionError("reset"), redis.ResponseError("UNBLOCKED role changed")],
    ids=["reset", "demoted"],
)
def test_trouble_after_the_script_is_an_unknown_outcome(
    replica: Replica,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    trouble: Exception,
) -> None:
    settings.MESH_SEND_RETRY_S = 0.05
    real = settled._Round.ask

    def ask(self: Any) -> Any:
        real(self)
        raise trouble

    monkeypatch.setattr(settled._Round, "ask", ask)

    with pytest.raises(errors.OutcomeUnknown) as failure:
        bus.enqueue_task(topic, 1, durability="replicated:1")

    assert len(failure.value.task_ids) == 1
    assert bus.stats(topic)["backlog"] == 1


def test_a_refusal_keeps_its_own_name_at_every_level(
    replica: Replica, topic: str
) -> None:
    """A full topic, a conflict, full memory: nothing was written, so none waits."""
    own = own_id()
    bus.enqueue_task(topic, 1, task_id=own, durability="replicated:1")

    with pytest.raises(errors.TopicFull):
        bus.enqueue_task(topic, 1, 1, durability="replicated:1")
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(topic, 2, task_id=own, durability="replicated:1")
    bus.get_redis().config_set("maxmemory", 1)
    try:
        with pytest.raises(errors.BusUnavailable) as failure:
            bus.enqueue_task(topic, 3, durability="replicated:1")
    finally:
        bus.get_redis().config_set("maxmemory", 0)
    assert failure.value.outcome == "not_written"
    assert bus.stats(topic)["backlog"] == 1


def test_collecting_tasks_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    with testing.collect() as sent:
        bus.enqueue_task("demo", 1, durability="replicated:2")
        with pytest.raises(errors.InvalidOption):
            bus.enqueue_task("demo", 1, durability="surely")

    assert len(sent) == 1
