"""A websocket is opened by a page of this site, or by a client that is no browser."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings

from dashboard import origins


@pytest.fixture(autouse=True)
def site(settings: Settings) -> None:
    """A site on one's own machine that trusts one other."""
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "mesh.example"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://ops.example", "https://*.inner.example"]
    settings.HTTPS = False


def scope(host: str, *found: str, scheme: str = "ws") -> dict[str, Any]:
    headers = [(b"host", host.encode())]
    headers += [(b"origin", origin.encode()) for origin in found]
    return {"type": "websocket", "scheme": scheme, "headers": headers}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://LOCALHOST:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("mesh.example", "http://mesh.example"),
        ("mesh.example", "http://mesh.example:80"),
        ("mesh.example", "https://ops.example"),
        ("mesh.example", "https://a.inner.example"),
    ],
)
def test_a_page_of_the_same_place_may_open_it(host: str, origin: str) -> None:
    assert origins.ours(scope(host, origin))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8001"),
        ("127.0.0.1:8000", "http://127.0.0.1"),
        ("127.0.0.1:8000", "https://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://localhost:8000"),
        ("mesh.example", "http://mesh.example.evil.example"),
        ("mesh.example", "http://mesh.example@evil.example"),
        ("mesh.example", "http://ops.example"),
        ("mesh.example", "https://evilinner.example"),
        ("mesh.example", "null"),
        ("mesh.example", "http://["),
        # A name of the attacker's that leads to our address.
        ("evil.example:8000", "http://evil.example:8000"),
        ("", "http://"),
    ],
)
def test_a_page_of_another_place_may_not(host: str, origin: str) -> None:
    assert not origins.ours(scope(host, origin))


def test_a_client_without_an_origin_is_no_browser() -> None:
    assert origins.ours(scope("127.0.0.1:8000"))
    assert not origins.ours(scope("evil.example"))


def test_https_counts_where_browsers_come_over_it(settings: Settings) -> None:
    settings.HTTPS = True  # ended by a proxy: we are spoken to in plain http

    assert origins.ours(scope("mesh.example", "https://mesh.example"))
    assert not origins.ours(scope("mesh.example", "http://mesh.example"))


def test_two_hosts_are_none() -> None:
    doubled = scope("127.0.0.1:8000")
    doubled["headers"].append((b"host", b"evil.example"))

    assert not origins.ours(doubled)
