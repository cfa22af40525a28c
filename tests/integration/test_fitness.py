"""The self-check: what a start is refused for, what is said of the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from pytest_django import Settings

import bus
from bus import address, agent, errors, fitness, handlers, health, levels
from bus.api.views import health as health_view
from tests.support import work
from tests.support.api import ROOT
from tests.support.waiting import wait_until

Configure = Callable[[str, str], None]


@pytest.fixture
def configure(redis_client: redis.Redis) -> Iterator[Configure]:
    """Sets the server's options for one test."""
    before: dict[str, str] = {}

    def set_option(name: str, value: str) -> None:
        found: Any = redis_client.config_get(name)
        before.setdefault(name, found[name])
        redis_client.config_set(name, value)
        levels.forget()

    yield set_option
    for name, value in before.items():
        redis_client.config_set(name, value)
    levels.forget()


def found(name: str) -> fitness.Check:
    checks = {check.name: check for check in health.checks()}
    return checks[name]


def ready() -> tuple[int, list[str]]:
    health_view.forget()
    response = Client().get(f"{ROOT}/health/ready")
    return response.status_code, response.json().get("why", [])


def test_the_embedded_server_is_fit(redis_client: redis.Redis) -> None:
    fitness.check()
    asyncio.run(fitness.acheck())

    assert health.refuses() == []


def test_a_server_that_evicts_is_refused_everywhere(configure: Configure) -> None:
    policy = "allkeys-lru"
    configure("maxmemory-policy", policy)
    runtime = agent.Agent([handlers.Handler("demo", work.echo)])

    with pytest.raises(errors.UnfitServer, match="CONFIG SET maxmemory-policy"):
        fitness.check()
    with pytest.raises(errors.UnfitServer, match=policy):
        asyncio.run(fitness.acheck())
    with pytest.raises(CommandError, match=policy) as web:
        call_command("web", port=1)
    with pytest.raises(CommandError, match=policy) as up:
        call_command("up")
    with pytest.raises(errors.UnfitServer):
        runtime.run()

    assert web.value.returncode == up.value.returncode == 78
    assert found("eviction").status == fitness.BAD
    assert ready() == (503, ["evicts"])


def test_the_password_does_not_get_into_the_refusal(
    configure: Configure, redis_client: redis.Redis
) -> None:
    configure("maxmemory-policy", "allkeys-lru")

    with pytest.raises(errors.UnfitServer) as failure:
        fitness.check()

    secret = redis_client.connection_pool.connection_kwargs["password"]
    assert secret not in str(failure.value)


def test_a_server_without_a_file_is_a_warning(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure("appendonly", "no")

    with caplog.at_level(logging.WARNING, "bus.fitness"):
        fitness.check()

    assert "no append-only file" in caplog.text
    assert found("persistence").status == fitness.WARN
    assert ready() == (200, [])


@pytest.mark.parametrize("level", ["aof", "fsync"])
def test_a_promise_the_server_cannot_keep_is_refused(
    configure: Configure, settings: Settings, level: str
) -> None:
    """Every send without a level of its own would be refused: not one is lowered."""
    settings.MESH_DURABILITY = level
    configure("appendfsync", "always")
    fitness.check()
    asyncio.run(fitness.acheck())
    configure("appendonly", "no")

    with pytest.raises(errors.UnfitServer, match=f"MESH_DURABILITY is {level}"):
        fitness.check()
    assert ready() == (503, ["too little"])


def test_a_refusal_names_the_server_that_was_looked_at(
    configure: Configure, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = address.redis_url()
    configure("maxmemory-policy", "allkeys-lru")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1/0")

    with pytest.raises(errors.UnfitServer) as failure:
        fitness.check(url)

    assert address.shown_url(url) in str(failure.value)
    assert "elsewhere" not in str(failure.value)


def test_missing_replicas_make_it_not_ready_and_are_waited_for(
    redis_client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.MESH_DURABILITY = "replicated:1"

    fitness.check()

    assert "no replica" in caplog.text
    assert found("durability").status == fitness.BAD
    assert ready() == (503, ["replicas"])


def test_a_setting_that_is_no_level_is_a_finding(
    redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_DURABILITY = "very"

    assert "'very'" in found("durability").says
    with pytest.raises(CommandError, match="MESH_DURABILITY"):
        call_command("web", port=1)


def test_a_setting_that_is_no_level_is_told_though_the_server_is_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    settings.MESH_DURABILITY = "replicated:1"
    assert "bus.E005" not in [each.id for each in run_checks()]
    settings.MESH_DURABILITY = "fsnyc"

    [found] = [each for each in run_checks() if each.id == "bus.E005"]

    assert "MESH_DURABILITY" in found.msg and "'fsnyc'" in found.msg


def test_a_replica_is_not_ready(redis_client: redis.Redis) -> None:
    redis_client.replicaof("127.0.0.1", "1")
    try:
        assert ready() == (503, ["replica"])
        assert found("role").hint == "use the primary's address"
    finally:
        redis_client.replicaof("NO", "ONE")


def test_a_user_who_may_not_list_connections_is_told_what_that_costs(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.acl_setuser(
        "blind", enabled=True, nopass=True, keys=["*"], commands=["+@all"]
    )
    redis_client.execute_command("ACL", "SETUSER", "blind", "-client|list")
    host = redis_url.rpartition("@")[2]
    monkeypatch.setenv("REDIS_URL", f"redis://blind:any@{host}")
    try:
        assert found("liveness").status == fitness.WARN
        assert ready() == (200, [])
    finally:
        redis_client.acl_deluser("blind")


def test_memory_without_bound_is_a_warning_on_a_server_of_your_own(
    redis_client: redis.Redis, redis_url: str
) -> None:
    assert found("memory").word == "unbounded"  # nobody has announced this one here

    from bus import announcement

    announcement.publish(redis_url)
    try:
        assert found("memory").status == fitness.OK
    finally:
        announcement.withdraw(redis_url)


def test_full_memory_is_told_as_what_it_does_now(
    configure: Configure,
    redis_client: redis.Redis,
    test_topic: str,
    settings: Settings,
) -> None:
    """Filled to the last task: what is said fits what a sender meets."""
    settings.MESH_SEND_RETRY_S = 0.05
    memory: Any = redis_client.info("memory")
    configure("maxmemory", str(memory["used_memory"] + 4 * 2**20))
    configure("maxmemory-policy", "noeviction")
    assert ready() == (200, [])

    def refusing(finding: Any) -> Any:
        return finding if finding.status == fitness.BAD else None

    def filled(*sizes: int) -> bool:
        """Send tasks of each size until one is refused."""
        for size in sizes:
            with pytest.raises(
                errors.BusUnavailable, match="memory is full"
            ) as refusal:
                for _ in range(10_000):
                    bus.enqueue_task(test_topic, "x" * size)
            assert refusal.value.code == "memory_full"
        return True

    filled(200_000, 10_000, 10)
    # What the server held for a moment it gives back: then one more goes in.
    wait_until(lambda: filled(10) and ready() == (503, ["full"]), 20)
    full = wait_until(lambda: filled(10) and refusing(found("memory")), 20)
    assert full.hint.startswith("raise maxmemory")
    assert "of maxmemory is used: new tasks are refused now" in full.says
    fitness.check()  # one starts all the same: agents make room

    configure("maxmemory", str(memory["used_memory"] + 5 * 2**20))
    bus.enqueue_task(test_topic, "again")
    assert ready() == (200, [])
    assert "at 100 % new tasks will be refused" in found("memory").says


GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "valkey_version": "8.1.8",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "maxmemory": 2**30,
}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, ""),
        ({"valkey_version": "8.1.5"}, "outdated"),
        ({"valkey_version": "8.0.6"}, ""),
        ({"valkey_version": "7.2.10"}, "outdated"),
        ({"valkey_version": "9.0.0-rc1"}, ""),
        ({"valkey_version": None, "redis_version": "7.0.15"}, "outdated"),
        ({"valkey_version": None, "redis_version": "7.4.6"}, ""),
        ({"valkey_version": None, "redis_version": "8.2.2"}, "outdated"),
        ({"valkey_version": None, "redis_version": "8.2.3"}, ""),
        ({"valkey_version": None, "redis_version": "6.2.20"}, "old"),
        ({"aof_last_write_status": "err"}, "failing"),
        ({"maxmemory_policy": "volatile-ttl"}, "evicts"),
        ({"role": "slave"}, "replica"),
        ({"used_memory": 2**30 * 0.7}, ""),
        ({"used_memory": 2**30 * 0.9}, "filling"),
        ({"used_memory": 2**30 + 1}, "full"),
        # A replica's buffer is held, but nothing is refused for it.
        ({"used_memory": 2**30 + 1, "mem_not_counted_for_evict": 2**28}, ""),
        ({"maxmemory": 0}, "unbounded"),
        ({"cluster_enabled": 1}, "cluster"),
    ],
)
def test_each_fact_has_its_word(facts: dict[str, Any], word: str) -> None:
    info = {key: value for key, value in {**GOOD, **facts}.items() if value is not None}

    words = [each.word for each in fitness.findings(info) if each.status != "ok"]

    assert word in words if word else words == []


@pytest.mark.parametrize("wanted", ["granted", "check"])
def test_a_server_that_reads_its_file_is_not_one_without(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """INFO says `aof_enabled:0` until it has loaded, and is answered all along."""
    real, asked = redis.Redis.info, []

    def info(client: redis.Redis, *sections: str) -> Any:
        asked.append(sections)
        told: Any = real(client, *sections)
        return told | {"loading": 1, "aof_enabled": 0} if len(asked) < 3 else told

    monkeypatch.setattr(redis.Redis, "info", info)
    levels.forget()

    if wanted == "granted":
        assert str(levels.granted("aof")) == "aof"
        assert len(asked) == 3
    else:
        with pytest.raises(errors.BusUnavailable, match="LOADING"):
            fitness.check()
        levels.forget()
