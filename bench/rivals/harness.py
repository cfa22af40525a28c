"""What the script of every contender shares; the standard library only.

It runs in the contender's own environment: as a client, which is told by its arguments
what to do, and in the worker process, where the task tells it that it ran.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

URL: Final = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
MARKS: Final = "bench:marks"  # hash: number of a run → when, in seconds
WARM: Final = 100  # untimed calls first: connections, scripts, caches
BATCH: Final = 100  # calls under way at once, where a client has no call for many
# Which runs of the task are worth a note; both 0 while nobody counts.
_FIRST: Final = int(os.environ.get("BENCH_FIRST", "0"))
_LAST: Final = int(os.environ.get("BENCH_LAST", "0"))
_runs = itertools.count(1)


def payload(number: int) -> dict[str, Any]:
    """190 bytes of JSON, the same as in the other benchmarks (`bench/payloads.py`)."""
    return {
        "action": "resize",
        "image": f"uploads/2024/11/{number:010d}.png",
        "width": 640,
        "height": 480,
        "quality": 0.85,
        "tags": ["thumbnail", "square"],
        "requested_by": "user-000042",
        "note": "x" * 21,
    }


def ran() -> None:
    """Called by the task itself: notes when the first and the last counted one ran."""
    number = next(_runs)
    if number in (_FIRST, _LAST):
        _note(number, time.time())


def _note(number: int, at_s: float) -> None:
    """Write to the server without a client: not every environment has the same one."""
    parts = urlsplit(URL)
    words = ["HSET", MARKS, str(number), repr(at_s)]
    commands = [["AUTH", parts.password]] if parts.password else []
    commands.append(words)
    with socket.create_connection((parts.hostname, parts.port or 6379), 5) as line:
        for command in commands:
            text = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
            line.sendall(f"*{len(command)}\r\n{text}".encode())
            line.recv(100)


def main(client: Any) -> None:
    """Do what the arguments say with a client, print what it took as JSON.

    `client` has `opened()`, a context manager, and on what that yields `send(number)`,
    `send_many(numbers)`, `trip(number)`: functions or coroutine functions.
    """
    verb, count = sys.argv[1], int(sys.argv[2])
    if inspect.iscoroutinefunction(client.send):
        with contextlib.suppress(ImportError):
            import uvloop

            uvloop.install()
        figures = asyncio.run(_a_measured(client, verb, count))
    else:
        figures = _measured(client, verb, count)
    print(json.dumps(figures), flush=True)


def _measured(client: Any, verb: str, count: int) -> list[float]:
    """Seconds: of all calls together, or of each round trip."""
    with client.opened():
        for number in range(WARM):
            _call(client, verb)(number)
        if verb == "trip":
            return [_timed(client.trip, number) for number in range(count)]
        return [_timed(_all(client, verb), range(WARM, WARM + count))]


def _call(client: Any, verb: str) -> Callable[[int], Any]:
    return client.trip if verb == "trip" else client.send  # type: ignore[no-any-return]


def _all(client: Any, verb: str) -> Callable[[Sequence[int]], None]:
    def one_by_one(numbers: Sequence[int]) -> None:
        for number in numbers:
            client.send(number)

    return client.send_many if verb == "many" else one_by_one


def _timed(call: Callable[[Any], Any], argument: Any) -> float:
    began = time.perf_counter()
    call(argument)
    return time.perf_counter() - began


async def _a_measured(client: Any, verb: str, count: int) -> list[float]:
    """The same for a client of coroutine functions."""
    async with client.opened():
        call = client.trip if verb == "trip" else client.send
        for number in range(WARM):
            await call(number)
        if verb == "trip":
            return [await _a_timed(client.trip, number) for number in range(count)]
        numbers = range(WARM, WARM + count)
        if verb == "many":
            return [await _a_timed(client.send_many, numbers)]
        began = time.perf_counter()
        for number in numbers:
            await client.send(number)
        return [time.perf_counter() - began]


async def _a_timed(call: Callable[[Any], Any], argument: Any) -> float:
    began = time.perf_counter()
    await call(argument)
    return time.perf_counter() - began


async def together(send: Callable[[int], Any], numbers: Sequence[int]) -> None:
    """A hundred sends at a time, for clients without a call for many."""
    for some in batches(numbers):
        await asyncio.gather(*map(send, some))


def batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """The numbers by the hundred."""
    for at in range(0, len(numbers), BATCH):
        yield numbers[at : at + BATCH]
