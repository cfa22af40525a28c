"""RQ: its worker that does not fork for each job, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import harness
from redis import Redis
from rq import Queue

WAIT_S = 10


def noop(payload: Any) -> None:
    harness.ran()


class Client:
    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        self._queue = Queue(connection=Redis.from_url(harness.URL))
        yield

    def send(self, number: int) -> Any:
        return self._queue.enqueue("with_rq.noop", harness.payload(number))

    def send_many(self, numbers: Sequence[int]) -> None:
        for some in harness.batches(numbers):
            self._queue.enqueue_many(
                [
                    Queue.prepare_data("with_rq.noop", (harness.payload(number),))
                    for number in some
                ]
            )

    def trip(self, number: int) -> None:
        self.send(number).latest_result(timeout=WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
