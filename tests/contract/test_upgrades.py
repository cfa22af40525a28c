"""Requests that offer to go on in another protocol: sockets, HTTP/2, made-up ones."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

import bus
from tests.contract.conftest import Enter
from tests.support.api import ROOT
from tests.support.doors import Door

# What Java's HttpClient and `curl --http2` send with the first call of a connection.
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
SOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
TASK = json.dumps({"topic": "upgrades", "task": {"n": 1}}).encode()


def request(door: Door, call: str, *headers: str, body: bytes = b"") -> bytes:
    """A call of an operator, with these headers."""
    lines = [f"{call.replace(' ', f' {ROOT}/', 1)} HTTP/1.1", "Host: localhost"]
    lines.append(f"Authorization: Bearer {door.tokens['operator']}")
    if body:
        lines.append("Content-Type: application/json")
    if body and not any("Transfer-Encoding" in each for each in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def said(door: Door, *parts: bytes, until: int = 0) -> bytes:
    """What is said until the server hangs up, or has answered `until` times.

    Each part is sent once the one before has been taken from us.
    """
    host, port = door.url.removeprefix("http://").split(":")
    told = b""
    with (
        socket.create_connection((host, int(port)), timeout=60) as line,
        contextlib.suppress(ConnectionError),
    ):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            line.sendall(part)
        while (not until or told.count(b"HTTP/1.1 ") < until) and (
            more := line.recv(65_536)
        ):
            told += more
    return told


@pytest.mark.parametrize("name", ["express", "views"])
@pytest.mark.parametrize("framing", ["a length", "chunks"])
def test_an_offer_of_http_2_is_passed_over_and_the_body_is_not(
    framing: str, name: str, enter: Enter
) -> None:
    door, headers, body = enter(name), H2C, TASK
    if framing == "chunks":
        headers = (*H2C, "Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(TASK), TASK)
    sent = request(door, "POST enqueue", *headers, "Connection: close", body=body)

    at_once = said(door, sent)
    in_pieces = said(door, *(sent[at : at + 40] for at in range(0, len(sent), 40)))

    for told in (at_once, in_pieces):
        assert told.startswith(b"HTTP/1.1 201 "), told
    assert [task.payload for task in bus.list_tasks("upgrades")[0]] == [{"n": 1}] * 2


def test_the_connection_goes_on_in_the_order_of_its_requests(enter: Enter) -> None:
    door = enter("express")
    offers = request(door, "POST enqueue", *H2C, body=TASK)
    plain = request(door, "GET health/live")
    last = request(door, "GET health/live", *H2C, "Connection: close")

    told = said(door, offers + plain + offers + plain + last)

    words = told.split(b"HTTP/1.1 ")[1:]
    assert [word[:3] for word in words] == [b"201", b"200", b"201", b"200", b"200"]


def test_thousands_of_offers_in_one_read_are_no_recursion(enter: Enter) -> None:
    door = enter("express")
    offer = b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: x\r\n"
    offer += b"Connection: upgrade\r\n\r\n"

    told = said(door, offer * 1_100, until=1)

    assert told.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("call", ["POST enqueue", "PUT enqueue", "GET health/live"])
def test_what_is_no_handshake_is_a_call_like_others(call: str, enter: Enter) -> None:
    door = enter("express")

    told = said(door, request(door, call, *SOCKET, body=TASK), until=1)

    fits = {"POST enqueue": 201, "PUT enqueue": 405, "GET health/live": 200}
    assert told.startswith(b"HTTP/1.1 %d " % fits[call]), told


@pytest.mark.parametrize(
    "more", [("X: " + "y" * 9_000,), tuple(f"X-{n}: y" for n in range(150))]
)
def test_a_handshake_beyond_the_bounds_is_told_so(
    more: tuple[str, ...], enter: Enter
) -> None:
    """The library for sockets refuses it, and would leave the connection open."""
    door = enter("express")

    told = said(door, request(door, "GET health/live", *SOCKET, *more))

    assert told.startswith(b"HTTP/1.1 400 "), told


def test_a_tunnel_is_refused(enter: Enter) -> None:
    door = enter("express")

    for headers in ((), SOCKET, H2C):
        lines = ["CONNECT localhost:1 HTTP/1.1", "Host: localhost", *headers, "", ""]
        told = said(door, "\r\n".join(lines).encode())
        assert told.startswith(b"HTTP/1.1 400 "), told
