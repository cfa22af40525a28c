"""This mesh: one agent process as a user starts it, results kept."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import harness  # noqa: E402

TOPIC = "rivals"
WAIT_S = 10


async def noop(payload: Any, task: Any) -> None:
    harness.ran()


class Client:
    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "meshsite.settings"
        os.environ["REDIS_URL"] = harness.URL
        django.setup()
        import bus

        self._bus = bus
        yield

    def send(self, number: int) -> str:
        return self._bus.enqueue_task(TOPIC, harness.payload(number))

    def send_many(self, numbers: Sequence[int]) -> None:
        payloads = [harness.payload(number) for number in numbers]
        self._bus.enqueue_many(TOPIC, payloads)

    def trip(self, number: int) -> None:
        sent = self.send(number)
        self._bus.wait_result(sent, TOPIC, timeout_s=WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
