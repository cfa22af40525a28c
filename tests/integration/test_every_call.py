"""Each public call that waits for the server, where that is gone or never answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_django import Settings

import bus
from bus.server import EmbeddedServer
from tests.integration.test_twins import PLAIN, _twin
from tests.support.waiting import wait_until

TOPIC, GROUP, BODY = "busy", "default", {"n": 1}
TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"
TIMEOUT_S = 0.1
# Several timeouts and much work around them: without one a call would never end.
SOON_S = 5.0

CALLS: dict[str, tuple[Any, ...]] = {
    "ack": (TOPIC, GROUP, "1-0"),
    "cancel": (TASK_ID, TOPIC),
    "create_consumer_group": (TOPIC, GROUP),
    "dead_groups": (TOPIC,),
    "delete_topic": (TOPIC,),
    "deregister_agent": ("one",),
    "discard": (TASK_ID, TOPIC),
    "enqueue_many": (TOPIC, [BODY]),
    "enqueue_task": (TOPIC, BODY),
    "explain": (TASK_ID, TOPIC),
    "get_agent": ("one",),
    "get_dead": (TASK_ID, TOPIC),
    "get_task": (TASK_ID, TOPIC),
    "heartbeat_agent": ("one",),
    "list_agents": (),
    "list_dead": (TOPIC,),
    "list_tasks": (TOPIC, "waiting"),
    "list_topics": (),
    "move_to_dead": (TOPIC, "1-0", BODY),
    "pause": (TOPIC,),
    "purge_topic": (TOPIC, "waiting"),
    "read_group": (TOPIC, GROUP, "me", 1, 100),
    "register_agent": ("one", "tester"),
    "replay": (TASK_ID, TOPIC),
    "resume": (TOPIC,),
    "run_now": (TASK_ID, TOPIC),
    "set_limits": (TOPIC,),
    "settle_ledger": (TOPIC,),
    "stats": (TOPIC,),
    "tail_results": (TOPIC,),
    "undo": (TASK_ID, TOPIC),
    "wait_result": (TASK_ID, TOPIC, 0.1),
}
OPTIONS: dict[str, dict[str, Any]] = {"set_limits": {"results_keep": 5}}
# Sent before anything is read: whether they were done, nobody knows.
WRITE_AT_ONCE = {
    *("ack", "cancel", "create_consumer_group", "deregister_agent", "enqueue_many"),
    *("enqueue_task", "heartbeat_agent", "move_to_dead", "read_group"),
    *("register_agent", "run_now", "set_limits"),
}


def plainly(name: str) -> Any:
    return getattr(bus, name)(*CALLS[name], **OPTIONS.get(name, {}))


def awaited(name: str) -> Any:
    async def call() -> Any:
        return await getattr(bus, _twin(name))(*CALLS[name], **OPTIONS.get(name, {}))

    return asyncio.run(call())


@pytest.fixture
def impatient(settings: Settings) -> None:
    """One try, and a short one."""
    settings.MESH_SEND_RETRY_S = 0.0
    settings.MESH_SOCKET_TIMEOUT_S = TIMEOUT_S


@contextlib.contextmanager
def hanging(server: EmbeddedServer) -> Iterator[None]:
    """It takes connections and requests, and never answers."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def outcome_of(call: Callable[[str], Any], name: str) -> str:
    """What the call says of what became of it; how it went if it says nothing."""
    began = time.monotonic()
    try:
        call(name)
    except bus.BusUnavailable as exc:
        took_s = time.monotonic() - began
        return exc.outcome if took_s < SOON_S else f"said after {took_s:.1f} s"
    except Exception as exc:
        return repr(exc)
    return "an answer"


def answered(call: Callable[[], Any]) -> Any:
    """What it says; where the machine stalls, that takes more than one short try."""

    def tried() -> list[Any]:
        with contextlib.suppress(bus.BusUnavailable):
            return [call()]
        return []

    return wait_until(tried, 20)[0]


def test_every_call_that_waits_is_among_them() -> None:
    assert sorted(CALLS) == PLAIN


@pytest.mark.slow
@pytest.mark.parametrize("call", [plainly, awaited])
def test_each_ends_soon_and_says_whether_it_may_have_been_done(
    own_server: EmbeddedServer, impatient: None, call: Callable[[str], Any]
) -> None:
    answered(lambda: bus.enqueue_task(TOPIC, BODY))
    answered(lambda: bus.create_consumer_group(TOPIC, GROUP))

    with hanging(own_server):
        told = {name: outcome_of(call, name) for name in PLAIN}

    stats = answered(lambda: bus.stats(TOPIC))
    assert told == {
        name: "unknown" if name in WRITE_AT_ONCE else "not_written" for name in PLAIN
    }
    # Nor did what was not written come to pass later: no pause, no purge, no deletion.
    assert not stats["paused"]
    assert stats["waiting"] + stats["running"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("call", [plainly, awaited])
def test_none_takes_a_server_that_is_gone_for_an_empty_one(
    own_server: EmbeddedServer, impatient: None, call: Callable[[str], Any]
) -> None:
    own_server.stop()

    told = {name: outcome_of(call, name) for name in PLAIN}

    assert told == dict.fromkeys(PLAIN, "not_written")
