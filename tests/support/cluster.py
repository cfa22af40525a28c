"""Two nodes of a cluster on this machine, and slots that move between them."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import redis

from bus.home import binary
from tests.support.waiting import wait_until

HOST: Final = "127.0.0.1"
SLOTS: Final = 16_384


class Node:
    """One node; ends with `stop`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.port, bus_port = _free_port(), _free_port()
        options = {
            "port": self.port,
            "cluster-port": bus_port,
            "bind": HOST,
            "cluster-enabled": "yes",
            "cluster-require-full-coverage": "no",
            "appendonly": "no",
            "save": "",
            "dir": str(directory),
            "logfile": "node.log",
        }
        argv = [str(binary.find().path)]
        for name, value in options.items():
            argv += [f"--{name}", str(value)]
        self._process = subprocess.Popen(argv, cwd=directory)
        # One connection: ASKING is for the next command of the same one.
        self.client = redis.Redis(
            host=HOST,
            port=self.port,
            decode_responses=False,
            single_connection_client=True,
        )
        wait_until(self._answers, 10, "the node answers")
        self.id = str(self.ask("CLUSTER", "MYID"))
        self.bus_port = bus_port

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def ask(self, *command: Any) -> Any:
        """The reply to one command; text where it is one."""
        reply = self.client.execute_command(*command)
        return reply.decode() if isinstance(reply, bytes) else reply

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait(10)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


def _free_port() -> int:
    """Below the ports that clients get, or a node may never get its own."""
    for port in random.sample(range(15_000, 32_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise AssertionError("no free port")


class Pair:
    """`one` owns every slot; topics move to `two` and back, key by key."""

    def __init__(self, one: Node, two: Node) -> None:
        self.one, self.two = one, two
        one.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        one.ask("CLUSTER", "MEET", HOST, two.port, two.bus_port)
        wait_until(self._met, 10, "the nodes know each other and the slots")

    def _met(self) -> bool:
        known = [node.ask("CLUSTER", "INFO") for node in (self.one, self.two)]
        told = [dict(_pairs(each)) for each in known]
        return all(
            facts["cluster_state"] == "ok"
            and facts["cluster_known_nodes"] == "2"
            and facts["cluster_slots_assigned"] == str(SLOTS)
            for facts in told
        )

    def slot(self, key: str) -> int:
        return int(self.one.ask("CLUSTER", "KEYSLOT", key))

    def begin(self, slot: int) -> None:
        """From now on keys of this slot may be on either node."""
        self.two.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.one.id)
        self.one.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.two.id)

    def move(self, keys: list[bytes], source: Node, target: Node) -> None:
        """Move these keys, which `source` has."""
        if keys:
            source.ask(
                "MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *sorted(keys)
            )

    def finish(self, slot: int) -> None:
        """The rest goes over, and the slot with it."""
        self.move(self.keys(self.one, slot), self.one, self.two)
        for node in (self.two, self.one):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.two.id)

    def give_up(self, slot: int) -> None:
        """All keys go back to where they were; only for a topic nobody writes to."""
        # In this order: while it gives a slot away, a node takes no key of it.
        self.one.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        self.move(self.keys(self.two, slot), self.two, self.one)
        self.two.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    def keys(self, node: Node, slot: int) -> list[bytes]:
        found: list[bytes] = node.ask("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        return found

    def content(self, slot: int) -> dict[bytes, bytes]:
        """Every key of a slot with its value, wherever it is."""
        found: dict[bytes, bytes] = {}
        for node in (self.one, self.two):
            for key in self.keys(node, slot):
                node.ask("ASKING")
                assert key not in found, "a key is on both nodes"
                found[key] = node.client.execute_command("DUMP", key)
        return found


def _pairs(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if ":" in line:
            yield line.strip().split(":", 1)


@contextlib.contextmanager
def pair(directory: Path) -> Iterator[Pair]:
    """Two nodes for the length of a module."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in ("one", "two"):
            node = Node(directory / name)
            stack.callback(node.stop)
            nodes.append(node)
        yield Pair(*nodes)
    shutil.rmtree(directory, ignore_errors=True)
