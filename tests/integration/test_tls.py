"""Redis behind TLS: agents, the express lane and the gateway find it as any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, scripts
from tests.support import agents
from tests.support.gateway import GatewayClient
from tests.support.ollama_stub import OllamaStub
from tests.support.resp_proxy import RespProxy
from tests.support.scripted import ACCEPTED, ScriptedServer
from tests.support.waiting import wait_until

site = pytest.mark.django_db(transaction=True, serialized_rollback=True)


@pytest.fixture(autouse=True)
def behind_tls(
    cleanup_test_data: None, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """REDIS_URL leads to the server by TLS; our own client of it goes without."""
    with RespProxy(redis_url, secure=True) as proxy:
        monkeypatch.setenv("REDIS_URL", proxy.url)
        yield
        connection.reset()


async def echo(payload: Any, task: Any) -> Any:
    return payload


def test_an_agent_outlives_its_connections(
    test_topic: str, redis_client: redis.Redis
) -> None:
    def ends(task_id: str) -> bool:
        return bus.get_task(task_id, test_topic).ended

    with agents.running(test_topic, echo):
        first = bus.enqueue_task(test_topic, 1)
        wait_until(lambda: ends(first), 10, "the first task ended")
        redis_client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        second = bus.enqueue_task(test_topic, 2)
        wait_until(lambda: ends(second), 10, "the second task ended")

    assert bus.stats(test_topic)["done"] == 2


@site
def test_the_express_lane_takes_a_task(test_topic: str, caller: GatewayClient) -> None:
    answer = caller.http.post(
        "/api/v1/mesh/enqueue", json={"topic": test_topic, "task": 1}
    )

    assert answer.status_code == 201, answer.text
    assert bus.get_task(answer.json()["id"], test_topic).payload == 1


@site
def test_the_gateway_generates_and_keeps_the_answer(
    upstream: OllamaStub, caller: GatewayClient
) -> None:
    answers = [caller.ask() for _ in range(2)]

    assert [each.headers.get("X-Cache") for each in answers] == ["MISS", "HIT"]


def test_a_server_that_was_demoted_is_left_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fail-over another one may stand behind the same address."""
    settings.MESH_SEND_RETRY_S = 30.0

    async def enqueue() -> Any:
        args = ["1", "1", "", "", "id", "", "", "1"]
        wire = connection.awire()
        return await scripts.arun("enqueue", "demo", args, client=wire)

    with (
        ScriptedServer(b"-READONLY not here\r\n", ACCEPTED) as server,
        RespProxy(server.url, secure=True) as proxy,
    ):
        monkeypatch.setenv("REDIS_URL", proxy.url)

        assert asyncio.run(enqueue()) == ["1-0"]
        assert server.connections == 2
