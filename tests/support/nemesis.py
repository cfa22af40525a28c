"""Failures on demand between the code under test and its server."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bus import connection, lines


class FailureSimulator:
    """Makes commands of this process fail; `heal` ends it."""

    def __init__(self) -> None:
        # Of its own: to heal undoes nothing that the test has changed besides.
        self._patch = pytest.MonkeyPatch()
        self._held: list[socket.socket] = []
        self.failed = 0

    def unreachable(self) -> None:
        """From now on REDIS_URL names a port where nobody listens."""
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        # Kept, but not listened at: given back, it could be the next server's.
        self._held.append(probe)
        port = probe.getsockname()[1]
        self._patch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")

    def intermittent(
        self, share: float, error: Callable[[], Exception] | None = None, seed: int = 7
    ) -> None:
        """This share of commands fails before it is sent."""
        chance = random.Random(seed)
        make = error or (lambda: redis.ConnectionError("simulated: connection reset"))
        real = redis.connection.AbstractConnection.send_command

        def send(conn: Any, *args: Any, **kwargs: Any) -> Any:
            if chance.random() < share:
                self.failed += 1
                raise make()
            return real(conn, *args, **kwargs)

        self._patch.setattr(redis.connection.AbstractConnection, "send_command", send)
        lean = lines.Line.call_packed

        def call(line: Any, *command: Any) -> Any:
            if chance.random() < share:
                self.failed += 1
                raise make()
            return lean(line, *command)

        self._patch.setattr(lines.Line, "call_packed", call)

    def lose_replies(self, every: int) -> None:
        """The reply of every n-th command is lost after the server executed it."""
        real = redis.connection.AbstractConnection.read_response
        count = 0

        def read(conn: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            reply = real(conn, *args, **kwargs)
            count += 1
            if count % every == 0:
                self.failed += 1
                conn.disconnect()
                raise redis.ConnectionError("simulated: reply lost")
            return reply

        self._patch.setattr(redis.connection.AbstractConnection, "read_response", read)
        lean = lines.Line.call_packed

        def call(line: Any, *command: Any) -> Any:
            nonlocal count
            reply = lean(line, *command)
            count += 1
            if count % every == 0:
                self.failed += 1
                raise redis.ConnectionError("simulated: reply lost")
            return reply

        self._patch.setattr(lines.Line, "call_packed", call)

    def heal(self) -> None:
        """Everything works again."""
        self._patch.undo()
        while self._held:
            self._held.pop().close()
        connection.reset()
