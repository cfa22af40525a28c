"""Huey: one process with eight threads, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import harness
from huey import RedisHuey

huey = RedisHuey("bench", url=harness.URL, notify_result=True)
WAIT_S = 10


@huey.task()
def noop(payload: Any) -> bool:
    harness.ran()
    return True


class Client:
    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        yield

    def send(self, number: int) -> Any:
        return noop(harness.payload(number))

    def send_many(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.send(number)

    def trip(self, number: int) -> None:
        self.send(number).get(blocking=True, timeout=WAIT_S)


if __name__ == "__main__":
    # As the consumer imports it: a task is known by its module.
    import with_huey

    harness.main(with_huey.Client())
