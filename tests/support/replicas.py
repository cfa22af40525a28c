"""A second server that follows the first one, to be stopped and promoted."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from bus.server import EmbeddedServer
from tests.support.waiting import wait_until


def admin(server: EmbeddedServer) -> redis.Redis:
    """A client of its own for whoever looks after this server."""
    return redis.Redis.from_url(server.url, decode_responses=True)


class Replica:
    """A server that follows another one."""

    def __init__(self, server: EmbeddedServer, primary: EmbeddedServer) -> None:
        self.server = server
        self._primary = primary
        self.client = admin(server)

    def follow(self) -> None:
        """Follow the primary until the link is up."""
        password = urlsplit(self._primary.url).password or ""
        with admin(self._primary) as primary:
            primary.config_set("repl-diskless-sync-delay", 0)
        self.client.config_set("masterauth", password)
        self.client.replicaof("127.0.0.1", str(self._primary.port))
        wait_until(self._linked, 10, "the replica is in sync")

    def _linked(self) -> bool:
        facts: Any = self.client.info("replication")
        with admin(self._primary) as primary:
            told: Any = primary.info("replication")
        online = told.get("slave0", {}).get("state") == "online"
        return facts.get("master_link_status") == "up" and online

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """As if its machine hung: connected, and silent."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    def cut_off(self) -> None:
        """End its link for good: what the primary takes from now on stays there."""
        self.client.config_set("masterauth", "not-the-password")
        self.client.client_kill_filter(_type="master")
        wait_until(self._alone, 5, "the primary has lost its replica")

    def _alone(self) -> bool:
        with admin(self._primary) as primary:
            told: Any = primary.info("replication")
        return bool(told["connected_slaves"] == 0)

    def take_password(self, password: str) -> None:
        """Be found under the URL of another server, but for the port."""
        self.client.config_set("requirepass", password)
        self.client.connection_pool.connection_kwargs["password"] = password

    def promote(self) -> str:
        """Make it the primary; its URL."""
        self.client.replicaof("NO", "ONE")
        return self.server.url


@contextlib.contextmanager
def following(primary: EmbeddedServer, directory: Path) -> Iterator[Replica]:
    """A replica of this server, in sync."""
    with EmbeddedServer(directory, port=0) as server:
        replica = Replica(server, primary)
        try:
            replica.follow()
            yield replica
        finally:
            replica.client.close()
            if server.pid is not None:
                # A replica that ends politely takes its time where a link hangs.
                os.kill(server.pid, signal.SIGKILL)
