"""The version of the layout: written once, compared at every start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import CommandError

import bus
from bus import agent, errors, handlers, health, keys, layout
from tests.support import agents, work
from tests.support.waiting import wait_until


def test_a_fresh_server_is_marked_once(redis_client: redis.Redis) -> None:
    assert layout.look() is None

    layout.check()
    layout.check()

    assert redis_client.get(keys.FORMAT) == str(layout.VERSION)
    assert layout.look() == str(layout.VERSION)


def test_a_mesh_from_before_the_mark_is_adopted(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Its keys are of the one layout that was never marked."""
    task_id = bus.enqueue_task(test_topic, 1)

    layout.check()

    assert redis_client.get(keys.FORMAT) == str(layout.VERSION)
    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (layout.VERSION + 1, r"layout 2, this mesh knows layout 1.*Update this one"),
        ("", "no version of a mesh.*SET mesh:format 1"),
        ("0", "no version"),
        ("1.0", "no version"),
        ("one\n", r"'one\\n'"),
        (b"\xff", "no version"),
        ("²", "no version"),
    ],
)
def test_another_version_is_refused_with_what_to_do(
    redis_client: redis.Redis, told: Any, sentence: str
) -> None:
    redis_client.set(keys.FORMAT, told)

    with pytest.raises(errors.WrongLayout, match=sentence):
        layout.check()
    with pytest.raises(errors.WrongLayout, match="MESH_VAR_DIR"):
        layout.look()

    assert redis_client.dbsize() == 1


def test_a_mark_of_another_type_is_no_version(redis_client: redis.Redis) -> None:
    redis_client.hset(keys.FORMAT, "a", "b")

    with pytest.raises(errors.WrongLayout, match="another program's data"):
        layout.check()


def test_a_password_does_not_get_into_the_sentence(redis_client: redis.Redis) -> None:
    redis_client.set(keys.FORMAT, "9")
    password = redis_client.connection_pool.connection_kwargs["password"]

    with pytest.raises(errors.WrongLayout) as caught:
        layout.check()

    assert password not in str(caught.value)


def test_full_memory_keeps_nobody_from_starting(redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)

    layout.check()

    redis_client.config_set("maxmemory", 0)
    assert layout.look() is None


def test_a_server_that_is_away_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    with pytest.raises(errors.BusUnavailable, match="does not answer"):
        layout.check()


def test_an_agent_neither_runs_nor_writes_on_another_layout(
    redis_client: redis.Redis, test_topic: str
) -> None:
    redis_client.set(keys.FORMAT, "2")

    runtime = agent.Agent([handlers.Handler(test_topic, work.echo)])
    with pytest.raises(errors.WrongLayout):
        asyncio.run(runtime.main())

    assert redis_client.keys() == [keys.FORMAT]


def test_an_agent_marks_the_server_it_starts_on(
    redis_client: redis.Redis, test_topic: str
) -> None:
    with agents.running(test_topic, work.echo):
        wait_until(lambda: redis_client.get(keys.FORMAT) == str(layout.VERSION), 10)


@pytest.mark.parametrize(
    "command",
    [["agent", "--topic", "hello"], ["web", "--port", "1"]],
    ids=["agent", "web"],
)
def test_commands_that_start_something_refuse(
    redis_client: redis.Redis, command: list[str]
) -> None:
    redis_client.set(keys.FORMAT, "2")

    with pytest.raises(CommandError, match="layout 2") as caught:
        call_command(*command)

    assert caught.value.returncode == 78


@pytest.mark.django_db
def test_up_refuses_before_it_starts_anything(
    redis_client: redis.Redis, tmp_path: Any, settings: Any
) -> None:
    settings.MESH_VAR_DIR = str(tmp_path / "var")
    redis_client.set(keys.FORMAT, "2")

    with pytest.raises(CommandError, match="layout 2") as caught:
        call_command("up", "--agents", "0")

    assert caught.value.returncode == 78
    assert redis_client.keys() == [keys.FORMAT]


@pytest.mark.parametrize(
    ("told", "status"), [(None, "ok"), ("1", "ok"), ("2", "bad"), ("x", "bad")]
)
def test_doctor_says_which_layout_it_is_and_writes_none(
    redis_client: redis.Redis, told: str | None, status: str
) -> None:
    if told is not None:
        redis_client.set(keys.FORMAT, told)

    [found] = [check for check in health.checks() if check.name == "layout"]

    assert found.status == status
    assert redis_client.get(keys.FORMAT) == told
