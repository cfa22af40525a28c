"""Fixtures of the web half: the site behind a server, who calls it, what it calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from django.test import Client
from pytest_django import Settings

from bus.api.views import health
from dashboard import queries, seeking
from tests.support.gateway import GatewayClient, NewCaller
from tests.support.ollama_stub import OllamaStub
from tests.support.pages import signed_in
from tests.support.site import LiveSite
from tests.support.sockets import Door, door_of


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists look for as long as it takes, on a busy machine as well."""
    monkeypatch.setattr(seeking, "_LOOK_S", 60.0)


@pytest.fixture(autouse=True)
def looked_at_anew() -> None:
    """No test is told how the server of another one was."""
    health.forget()


@pytest.fixture
def viewer(cleanup_test_data: None) -> Client:
    """The browser of somebody who may look."""
    return signed_in("viewer")


@pytest.fixture
def operator(cleanup_test_data: None) -> Client:
    """The browser of somebody who looks after tasks."""
    return signed_in("operator")


@pytest.fixture
def admin(cleanup_test_data: None) -> Client:
    """The browser of somebody who may do anything."""
    return signed_in("admin")


@pytest.fixture
def nothing_known(redis_client: redis.Redis) -> Iterator[None]:
    """An empty mesh, whatever pages remember of its server."""
    queries.forget_checks()
    yield
    queries.forget_checks()


@pytest.fixture
def upstream(settings: Settings) -> Iterator[OllamaStub]:
    """A scripted model server, which the gateway is pointed at."""
    with OllamaStub() as stub:
        settings.MESH_OLLAMA_BASE_URL = stub.url
        yield stub


@pytest.fixture
def live_site(redis_client: redis.Redis) -> Iterator[LiveSite]:
    """The site behind a real web server."""
    with LiveSite() as live:
        yield live


@pytest.fixture
def door(live_site: LiveSite) -> Door:
    """Opens sockets of that site: `door(token=…)`, `door(session=client)`."""
    return door_of(live_site)


@pytest.fixture
def new_caller(live_site: LiveSite) -> Iterator[NewCaller]:
    """Makes clients, each with a token of its own."""
    from bus import accounts

    made: list[GatewayClient] = []

    def new(role: str = "operator") -> GatewayClient:
        _, text = accounts.create_token(f"client {len(made)}", role)
        made.append(GatewayClient(live_site.url, text))
        return made[-1]

    yield new
    for each in made:
        each.http.close()


@pytest.fixture
def caller(new_caller: NewCaller) -> GatewayClient:
    """One client that may generate."""
    return new_caller()
