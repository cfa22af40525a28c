"""`manage.py doctor`: every finding in a table or as JSON, and how it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from pytest_django import Settings

import bus
from bus import agents, connection, handlers, keys
from bus.home import credentials
from tests.support.nemesis import FailureSimulator

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]


@pytest.fixture(autouse=True)
def var_dir(settings: Settings, tmp_path: Path) -> Path:
    """A folder of this test's own."""
    settings.MESH_VAR_DIR = str(tmp_path)
    return tmp_path


def said(*args: str) -> str:
    """What it prints where nothing is to mend."""
    out = io.StringIO()
    call_command("doctor", *args, stdout=out)
    return out.getvalue()


def failed(*args: str) -> tuple[str, str]:
    """What it prints, and the sentence it ends with."""
    out = io.StringIO()
    with pytest.raises(CommandError) as ended:
        call_command("doctor", *args, stdout=out)
    assert ended.value.returncode == 1
    return out.getvalue(), str(ended.value)


def rows(text: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in map(json.loads, text.splitlines())}


def test_a_mesh_in_order_has_a_line_for_each_thing_it_looked_at(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, 1)
    credentials.ensure("http://127.0.0.1:9")

    lines = said().splitlines()

    assert lines[0].split() == ["check", "finding"]
    for name in ("python", "redis", "layout", "agents", "database", "handlers"):
        marks = [line.split()[0] for line in lines if line.split()[1:2] == [name]]
        assert marks in (["ok"], ["warn"])
    [at] = [n for n, line in enumerate(lines) if f" topic {test_topic}  " in line]
    assert "1 task waits and no live agent serves it" in lines[at]
    assert f"→ manage.py agent --topic {test_topic}" in lines[at + 1]


def test_it_looks_for_handlers_before_it_says_who_may_serve_a_topic(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_discovered", False)
    bus.enqueue_task(test_topic, 1)

    told = rows(said("--json"))

    hint = "--handler package.module:function (no installed app has a handler for it)"
    assert told[f"topic {test_topic}"]["hint"].endswith(hint)


def test_the_same_as_json_for_programs(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    told = rows(said("--json"))

    assert set(told["redis"]) == {"name", "status", "says", "hint"}
    assert told[f"topic {test_topic}"]["status"] == "warn"
    assert told["handlers"]["status"] == "ok"


def test_without_a_server_it_says_so_and_looks_at_the_rest(
    failure_simulator: FailureSimulator,
) -> None:
    failure_simulator.unreachable()

    text, why = failed("--json")

    told = rows(text)
    assert why == "1 to mend: redis"
    assert "REDIS_URL" in told["redis"]["hint"]
    assert told["database"]["status"] == told["handlers"]["status"] == "ok"


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name", "an agents.py does not import: "),
        ("from bus import handler\nhandler('t')(3)", "the handler of topic 't' is an"),
    ],
    ids=["import", "handler"],
)
def test_handlers_that_cannot_be_loaded_are_to_mend(
    text: str,
    says: str,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = tmp_path / f"app_{len(text)}"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "agents.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, app.name]

    told, why = failed()

    assert why == "1 to mend: handlers"
    assert says in told
    assert "→ mend that module" in told


def test_whatever_somebody_wrote_is_shown_as_it_is(redis_client: redis.Redis) -> None:
    odd = r"one\[/] [red]two[/red] :bug:"
    record = {"agent_id": odd, "agent_type": "mesh", "namesake": odd}
    agents.register("one", "one#00000001", 60, record)

    lines = said().splitlines()

    assert len([line for line in lines if line.count(odd) == 2]) == 1


@pytest.fixture
def no_scripts(redis_client: redis.Redis) -> Iterator[None]:
    """A user of the server who may run no script."""
    redis_client.execute_command("ACL", "SETUSER", "default", "-@scripting")
    yield
    connection.reset()
    redis_client.execute_command("ACL", "SETUSER", "default", "+@all")


def test_a_user_who_may_not_what_the_mesh_needs_is_told_beside_the_rest(
    test_topic: str, redis_client: redis.Redis, no_scripts: None
) -> None:
    redis_client.sadd(keys.TOPICS, test_topic)

    text, _ = failed("--json")

    found = rows(text)
    assert found["commands"]["status"] == "bad"
    assert "evalsha" in found["commands"]["says"]
    assert "ACL SETUSER" in found["commands"]["hint"]
    assert found["layout"]["status"] == found["database"]["status"] == "ok"


def test_an_address_that_is_none_is_not_taken_for_a_want_of_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "nonsense")

    text, why = failed("--json")

    assert why == "1 to mend: redis"
    assert "SCAN" not in text


def test_a_list_of_topics_that_is_none_is_not_either(
    redis_client: redis.Redis,
) -> None:
    redis_client.set(keys.TOPICS, "by hand")
    redis_client.set(keys.named("counters", "some"), "by hand")

    text, why = failed("--json")

    assert why == "1 to mend: keys"
    assert "SCAN" not in text


def test_a_key_that_somebody_damaged_is_told_beside_the_rest(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    key = keys.named("counters", test_topic)
    redis_client.delete(key)
    redis_client.set(key, "by hand")

    text, _ = failed("--json")

    found = rows(text)
    assert (found["keys"]["status"], key in found["keys"]["says"]) == ("bad", True)
    assert found["layout"]["status"] == "ok"
