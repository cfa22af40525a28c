"""Sockets of the live feed, and those who open them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets.exceptions
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from websockets.sync.client import ClientConnection, connect

from bus import accounts
from tests.support.site import LiveSite


class Page:
    """One socket, as a page or another client holds it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, frame: object) -> None:
        self.socket.send(frame if isinstance(frame, str) else json.dumps(frame))

    def resume(self, **fields: Any) -> Page:
        self.send({"op": "resume", "after": {}, "topics": None, **fields})
        return self

    def next(self, *ops: str, timeout_s: float = 10) -> dict[str, Any]:
        """The next frame, of one of these kinds if given."""
        until = time.monotonic() + timeout_s
        while True:
            frame = json.loads(self.socket.recv(max(0.0, until - time.monotonic())))
            if not ops or frame["op"] in ops:
                return dict(frame)

    def end(self, timeout_s: float = 10) -> tuple[int, str]:
        """The close code, and the code of the error frame before it."""
        code = ""
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            while True:
                frame = json.loads(self.socket.recv(timeout_s))
                code = frame["code"] if frame["op"] == "error" else code
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, code


Door = Callable[..., Any]


def door_of(live_site: LiveSite) -> Door:
    """Opens sockets: `door(token=…)`, `door(session=client)`."""

    @contextmanager
    def opened(
        token: str = "", session: Client | None = None, queue: int = 16, **headers: str
    ) -> Iterator[Page]:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if session is not None:
            cookie = session.cookies[django_settings.SESSION_COOKIE_NAME]
            headers["Cookie"] = f"{cookie.key}={cookie.value}"
        url = live_site.url.replace("http", "ws", 1) + "/ws/feed"
        with connect(
            url, additional_headers=headers, compression=None, max_queue=queue
        ) as socket:
            yield Page(socket)

    return opened


def token(role: str = "viewer", topics: tuple[str, ...] = ()) -> str:
    """A new one of this role, bound to topics if any are named."""
    return accounts.create_token(f"a {role}", role, topics)[1]


def signed_in(role: str) -> tuple[User, Client]:
    """Somebody of this role, and the browser that knows it."""
    user = accounts.ensure_user(f"the-{role}", role or "viewer", "a-password-1")
    client = Client()
    client.force_login(user)
    return user, client
