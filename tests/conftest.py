"""Fixtures of the suite: one real server per test process, emptied for each test."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import fakeredis
import hypothesis
import pytest
import redis
from django.conf import settings
from pytest_django import DjangoDbBlocker
from pytest_django.plugin import blocking_manager_key

from tests.support import shell

# Before Django reads its settings: no test touches this folder's var/, nor what else
# the shell names. A database of production would get one for tests beside it.
shell.forget()
_STATE = tempfile.TemporaryDirectory(prefix="mesh-tests-")
os.environ["MESH_VAR_DIR"] = _STATE.name
os.environ["SECRET_KEY"] = "a-secret-for-tests-only"
os.environ["DJANGO_SETTINGS_MODULE"] = "meshsite.settings"
django.setup()
# Hashing a password as one should takes a second of a slow machine, each time. Meshes
# that are started as a whole do.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# A shell has what runs in its background ignore Ctrl-C, and nohup a closed terminal.
# Children would inherit that; what is handled here is at its default in them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, lambda *_: None),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

from bus import handlers  # noqa: E402
from tests.support import rows  # noqa: E402
from tests.support.figures import Figures  # noqa: E402
from tests.support.leaks import leaks  # noqa: E402
from tests.support.nemesis import FailureSimulator  # noqa: E402

pytest_plugins = ["tests.support.chronicle"]

# A module registers its handlers when it is first imported: in a test that has a
# registry of its own they would be lost to those after it.
handlers.autodiscover()

# A machine with others on it takes its time: that fails no property.
hypothesis.settings.register_profile(
    "mesh",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mesh")
# Of `make mutants`: few, and for each mutant the same.
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("mesh"),
    derandomize=True,
    max_examples=10,
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` means: tests mostly wait for processes, attacks compute too."""
    cores = len(os.sched_getaffinity(0))
    return cores + 1 if config.option.markexpr == "chaos" else 2 * cores


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Iterator[None]:
    """Have the roles there again behind a test that leaves an empty database.

    pytest-django has those tests come last, but a worker of xdist may take over others
    when it has done its own.
    """
    yield
    marker = item.get_closest_marker("django_db")
    if nextitem and marker and marker.kwargs.get("transaction"):
        with item.config.stash[blocking_manager_key].unblock():
            rows.put_back()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """The database as migrations leave it, which `rows` knows from then on."""
    with django_db_blocker.unblock():
        rows.note()


@pytest.fixture(scope="session")
def mesh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded server of this test process."""
    from bus.server import EmbeddedServer

    directory: Path = tmp_path_factory.mktemp("redis")
    with EmbeddedServer(directory, port=0, debug_commands=True) as server:
        yield server


@pytest.fixture
def redis_url(mesh_server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the real server, set for the code under test and its children."""
    monkeypatch.setenv("REDIS_URL", mesh_server.url)
    return str(mesh_server.url)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the real server, which is empty before and after."""
    from bus import connection, scripts

    client = redis.Redis.from_url(
        redis_url, decode_responses=True, driver_info=connection.DRIVER
    )
    _empty(client)
    scripts.forget_topics()
    yield client
    _empty(client)
    client.close()
    connection.reset()


def _empty(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as both:
        both.config_set("maxmemory", 0)
        both.flushall()
        both.execute()


@pytest.fixture
def mock_redis() -> fakeredis.FakeRedis:
    """A fake for what needs no script, no group and no blocking read."""
    server = fakeredis.FakeServer()
    return fakeredis.FakeRedis(server=server, decode_responses=True)


@pytest.fixture
def cleanup_test_data(redis_client: redis.Redis) -> Iterator[None]:
    """Empty before; afterwards no key that nobody bounds or knows."""
    yield
    assert leaks(redis_client) == []


@pytest.fixture
def test_topic(cleanup_test_data: None) -> str:
    """A topic no other test uses, on the real server."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Handlers that a test registers or loads are forgotten after it."""
    before = dict(handlers.registry)
    yield
    handlers.registry.clear()
    handlers.registry.update(before)


@pytest.fixture
def sample_task_data() -> dict[str, Any]:
    """A payload with every kind of JSON value."""
    return {
        "action": "resize",
        "image": "kätzchen.png",
        "width": 640,
        "ratio": 1.5,
        "tags": ["a", "b"],
        "nested": {"deep": [None, True, {}]},
    }


@pytest.fixture
def sample_agent_data() -> dict[str, Any]:
    """Arguments of `register_agent`."""
    return {
        "agent_id": f"agent-{uuid.uuid4().hex[:8]}",
        "agent_type": "resizer",
        "ttl_seconds": 30,
        "meta": {"version": "1.2", "slots": 4},
    }


@pytest.fixture
def sample_result_data() -> dict[str, Any]:
    """What a handler returns."""
    return {"path": "/tmp/out.png", "bytes": 12345, "ok": True}


@pytest.fixture
def performance_metrics() -> Figures:
    """Collects durations; gives rate, mean and percentiles."""
    return Figures()


@pytest.fixture
def concurrency_metrics() -> Figures:
    """Collects durations and errors from many threads."""
    return Figures()


@pytest.fixture
def failure_simulator(redis_url: str) -> Iterator[FailureSimulator]:
    """Makes Redis fail for the code under test, for a while or forever."""
    simulator = FailureSimulator()
    yield simulator
    simulator.heal()


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of this test alone, to be killed."""
    from bus import connection
    from bus.server import EmbeddedServer

    with EmbeddedServer(tmp_path / "redis", port=0) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server
    connection.reset()
