"""The nemesis: breaks one thing at a time and heals it, all after one seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import redis

from bus.conf import conf
from bus.server import EmbeddedServer
from tests.support.storm import Fleet, Web
from tests.support.waiting import wait_until

LONG_STOP_S: Final = 1.2  # leases: its tasks are somebody else's when it comes back


class Nemesis:
    """Kills, stops, slows and cuts agents, web and server."""

    def __init__(
        self, server: EmbeddedServer, fleet: Fleet, web: Web, dice: random.Random
    ) -> None:
        self.server, self.fleet, self.web, self.dice = server, fleet, web, dice
        self.faults: Counter[str] = Counter()
        self.kills: list[tuple[float, str]] = []  # monotonic, agent id
        # When nobody could judge, monotonic: server away, connections cut, and the
        # seconds after in which nobody may.
        self.blind: list[tuple[float, float]] = []
        self._sleepers: list[threading.Timer] = []

    def strike(self) -> None:
        """One fault, from its beginning to its end."""
        faults: list[Callable[[], None]] = [
            self.kill_an_agent,
            self.kill_an_agent,
            self.kill_an_agent,
            self.stop_an_agent,
            self.stop_an_agent_for_longer_than_its_lease,
            self.slow_an_agent,
            self.cut_an_agent,
            self.kill_the_web_server,
            self.stop_the_web_server,
            self.slow_the_web_server,
            self.kill_the_server,
            self.kill_the_server_while_it_rewrites_its_file,
            self.freeze_the_server,
            self.slow_the_server,
            self.keep_the_server_busy,
            self.cut_all_connections,
            self.forget_all_scripts,
        ]
        fault = self.dice.choice(faults)
        self.faults[fault.__name__.replace("_", " ")] += 1
        with contextlib.suppress(redis.RedisError, ProcessLookupError):
            fault()

    def close(self) -> None:
        """Whoever still sleeps wakes up."""
        for sleeper in self._sleepers:
            sleeper.join()

    # --- agents

    def kill_an_agent(self) -> None:
        pid = self.fleet.pick(self.dice.choice)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.kills.append((began, self.fleet.id_of(pid)))

    def stop_an_agent(self) -> None:
        self._stop(self.fleet.pick(self.dice.choice), self.dice.uniform(0.5, 4))

    def stop_an_agent_for_longer_than_its_lease(self) -> None:
        """It finds out when it comes back, and must not end what is not its own."""
        pid = self.fleet.pick(self.dice.choice)
        os.kill(pid, signal.SIGSTOP)
        sleeper = threading.Timer(conf.LEASE_S * LONG_STOP_S, _wake, [pid])
        sleeper.start()
        self._sleepers.append(sleeper)

    def slow_an_agent(self) -> None:
        _slow(self.fleet.pick(self.dice.choice), self.dice.uniform(1, 3))

    def cut_an_agent(self) -> None:
        agent_id = self.fleet.id_of(self.fleet.pick(self.dice.choice))
        with self._client() as client:
            for row in client.client_list():
                if row["name"].startswith(f"mesh:{agent_id}#"):
                    client.client_kill_filter(_id=row["id"])

    # --- web server

    def kill_the_web_server(self) -> None:
        os.kill(self.web.pid(), signal.SIGKILL)

    def stop_the_web_server(self) -> None:
        self._stop(self.web.pid(), self.dice.uniform(0.5, 4))

    def slow_the_web_server(self) -> None:
        _slow(self.web.pid(), self.dice.uniform(1, 3))

    # --- Redis server

    def kill_the_server(self) -> None:
        assert self.server.pid is not None
        with self._away():
            os.kill(self.server.pid, signal.SIGKILL)
            wait_until(lambda: not self.server.alive(), 5, "the server is dead")
            time.sleep(self.dice.choice([0, 0, 1.5]))
            self.server.start()

    def kill_the_server_while_it_rewrites_its_file(self) -> None:
        with self._client() as client:
            client.bgrewriteaof()
        self.kill_the_server()

    def freeze_the_server(self) -> None:
        assert self.server.pid is not None
        with self._away():
            self._stop(self.server.pid, self.dice.uniform(0.2, 4))

    def slow_the_server(self) -> None:
        assert self.server.pid is not None
        with self._away():
            _slow(self.server.pid, self.dice.uniform(0.5, 2))

    def keep_the_server_busy(self) -> None:
        """A script of somebody else runs for a second; all others are told BUSY."""
        with self._away(), self._client() as client:
            client.config_set("busy-reply-threshold", 200)
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.1
            with contextlib.suppress(redis.RedisError):
                client.eval("while true do end", 0)
            client.connection_pool.connection_kwargs["socket_timeout"] = 5
            time.sleep(1)
            client.script_kill()

    def cut_all_connections(self) -> None:
        with self._away(), self._client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def forget_all_scripts(self) -> None:
        with self._client() as client:
            client.script_flush()

    # --- how

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.blind.append((began, time.monotonic() + conf.JUDGE_AFTER_S))

    @staticmethod
    def _stop(pid: int, lasting_s: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(lasting_s)
        _wake(pid)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, decode_responses=True)


def _slow(pid: int, lasting_s: float) -> None:
    """A third of its speed for a while."""
    until = time.monotonic() + lasting_s
    while time.monotonic() < until:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.04)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)


def _wake(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
