"""Fills a server for the reads: `python -m bench.http.filling tasks=… topics=… …`.

A process of its own, since one process knows one server. Its last line tells, as JSON,
the names that the reads ask for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import django

from bench import payloads
from bench.stage import ROOT, BenchError

TOPIC: Final = "reads"
AGENT: Final = "reader-0"
PAGE: Final = 50  # what a list has where nobody asks for more
KINDS: Final = 20  # of failures: groups of dead letters
_STEP: Final = 100


@dataclass(frozen=True, slots=True)
class Size:
    """How much a mesh holds; by default what the mesh promises itself."""

    tasks: int = 1_000_000  # that wait, of one topic
    topics: int = 200
    dead: int = 100_000
    agents: int = 1_000


# A page of each, so that both meshes answer with as many rows.
SMALL: Final = Size(tasks=PAGE, topics=1, dead=PAGE, agents=PAGE)


def filled(
    redis_url: str, size: Size, module: str = "bench.http.filling"
) -> dict[str, str]:
    """Fill the server; `topic`, `agent`, and by state `waiting`, `done`, `dead` ids."""
    argv = [sys.executable, "-m", module]
    argv += [f"{name}={value}" for name, value in asdict(size).items()]
    env = {
        **os.environ,
        "REDIS_URL": redis_url,
        "DJANGO_SETTINGS_MODULE": "bench.http.settings",
    }
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the server cannot be filled: {done.stderr.strip()[-800:]}")
    told: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def fill(size: Size) -> dict[str, str]:
    """Fill the server of this process through the lease protocol, as a user would."""
    import bus
    from bus import leases

    room = size.tasks + size.dead + PAGE
    bus.set_limits(TOPIC, backlog_max=room, dead_max=size.dead + 1)
    for n in range(size.agents):
        bus.register_agent(f"reader-{n}", "by hand", 24 * 3600)
    for n in range(1, size.topics):
        bus.enqueue_task(f"{TOPIC}-{n}", payloads.payload(n))
    leases.register("filler", "by hand", 3600, None, None)
    bus.create_consumer_group(TOPIC, "default")
    dead = _ended(size.dead, die=True)
    done = _ended(PAGE, die=False)
    # A task in the middle of what waits: nothing may look for it from an end.
    bus.enqueue_many(TOPIC, map(payloads.payload, range(size.tasks // 2)))
    waiting = bus.enqueue_task(TOPIC, payloads.payload(0))
    rest = range(size.tasks - size.tasks // 2 - 1)
    bus.enqueue_many(TOPIC, map(payloads.payload, rest))
    leases.leave("filler")
    names = {"topic": TOPIC, "agent": AGENT}
    return {**names, "waiting": waiting, "dead": dead, "done": done}


def _ended(count: int, *, die: bool) -> str:
    """So many tasks that ended; the id of the last."""
    import bus
    from bus import endings, fences, leases

    last = ""
    for at in range(0, count, _STEP):
        step = min(_STEP, count - at)
        bus.enqueue_many(TOPIC, map(payloads.payload, range(at, at + step)))
        ends: list[endings.Fence] = []
        while len(ends) < step:
            lent = leases.claim(TOPIC, "filler", step - len(ends)).lent
            if not lent:
                raise BenchError(f"{step - len(ends)} tasks of {TOPIC} are not there")
            ends += [endings.fence_of(each.topic, each.id, each.fence) for each in lent]
        if die:
            fences.fail(
                [
                    (end, fences.Failed(f"Kind{chr(65 + n % KINDS)}", "no", final=True))
                    for n, end in enumerate(ends)
                ]
            )
        else:
            fences.complete([(end, b"1") for end in ends])
        last = ends[-1].id
    return last


def main(how: Callable[[Size], dict[str, str]]) -> None:
    """What `filled` starts: fill as the arguments say, and tell the names."""
    django.setup()
    given = dict(each.split("=") for each in sys.argv[1:])
    print(json.dumps(how(Size(**{name: int(given[name]) for name in given}))))


if __name__ == "__main__":
    main(fill)
