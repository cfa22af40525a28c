"""A mesh with something of everything, for tests and screenshots that look at pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import bus
from bus import replays
from tests.support import agents
from tests.support.past import past
from tests.support.waiting import wait_until

WORK = "tests.support.showcase_work:run"
START_S = 60  # agents take seconds to start where other tests want both cores


@dataclass(frozen=True)
class Showcase:
    """Tasks by what became of them, bulk replays, a failure, an agent."""

    done: str
    dead: str
    delayed: str
    discarded: str
    waiting: str
    again: str  # replayed, and dead again
    group: str
    frozen: str
    stopped: str
    agent: str

    def pages(self) -> dict[str, str]:
        """Every page there is, by name; those of admins too."""
        images = "/topics/images/"
        return {
            "overview": "/",
            "topics": "/topics/",
            "topic": images,
            "topic-week": f"{images}?span=week",
            "topic-month": f"{images}?span=month",
            "send": f"{images}new",
            "send-copy": f"/topics/mail/new?copy={self.delayed}",
            "limits": f"{images}limits",
            "purge": f"{images}purge",
            "settle": f"{images}settle",
            "delete": f"{images}delete",
            "tasks": "/tasks/",
            "tasks-waiting": "/tasks/?state=waiting",
            "tasks-cancel-matching": "/tasks/cancel-matching?state=waiting",
            "tasks-none": "/tasks/?state=cancelled&topic=images",
            "task-done": f"/tasks/{self.done}/?topic=images",
            "task-delayed": f"/tasks/{self.delayed}/?topic=mail",
            "task-dead": f"/tasks/{self.again}/?topic=mail",
            "results": "/results/",
            "agents": "/agents/",
            "agent": f"/agents/{self.agent}/",
            "dead": "/dead/",
            "group": f"/dead/groups/{self.group}/",
            "discard-all": f"/dead/groups/{self.group}/discard",
            "letter": f"/dead/{self.dead}/?topic=images",
            "letter-again": f"/dead/{self.again}/?topic=mail",
            "edit": f"/dead/{self.dead}/edit?topic=images",
            "discard": f"/dead/{self.dead}/discard?topic=images",
            "discarded": f"/dead/{self.discarded}/?topic=images",
            "replays": "/replays/",
            "replay-new": "/replays/new",
            "replay-frozen": f"/replays/{self.frozen}/",
            "replay-discard": f"/replays/{self.frozen}/discard",
            "replay-stopped": f"/replays/{self.stopped}/",
            "ollama": "/ollama/",
            "audit": "/audit/",
            "settings": "/settings/",
            "not-found": "/nowhere/",
        }


@contextmanager
def showcase(env: dict[str, str]) -> Iterator[Showcase]:
    """Fill the mesh that `bus` talks to; its agents are processes with this `env`."""
    with ExitStack() as stack:
        for topic, name in (("images", "gpu-1@studio"), ("mail", "post-1@mailroom")):
            more = ("--agent-id", name, "--concurrency", "4")
            stack.enter_context(agents.process(topic, WORK, *more, env=env))
        yield _filled()


def _filled() -> Showcase:
    done = bus.enqueue_many("images", [{"file": f"{n}.jpg", "n": n} for n in range(60)])
    broken = [
        bus.enqueue_task(
            "images", {"how": "format", "file": f"scan-{n}.jpg"}, max_attempts=1
        )
        for n in range(7)
    ]
    refused = [
        bus.enqueue_task(
            "mail", {"how": "refused", "to": f"{who}@example.net"}, max_attempts=1
        )
        for who in ("ann", "bob", "cem", "dora")
    ]
    bus.enqueue_task("mail", {"how": "address", "to": "nobody@example.net"})
    bus.enqueue_many("mail", [{"to": f"{n}@example.net", "n": n} for n in range(40)])
    long = {"how": "long", "file": "panorama.tif"}
    bus.enqueue_task("images", long, timeout_s=3_600)
    delayed = bus.enqueue_task("mail", {"how": "later", "to": "eve@example.net"})
    waiting = bus.enqueue_many("reports", [{"month": n} for n in range(1, 13)])
    bus.cancel(waiting[3], "reports")
    bus.enqueue_many("invoices", [{"number": 4700 + n} for n in range(5)])
    bus.pause("invoices")
    wait_until(lambda: _dead("images") == 7 and _dead("mail") == 5, START_S)
    wait_until(lambda: bus.get_task(delayed, "mail").state == "delayed", START_S)
    wait_until(lambda: bus.get_task(done[-1], "images").ended, START_S)
    bus.discard(broken[0], "images")
    past("images", 1_200)
    frozen = replays.create(replays.select(topics=["images"]), by="ann", start=False)
    pace = replays.paced(None, True, 0.2)
    letters = replays.select(topics=["mail"], ids=refused)
    stopped = replays.create(letters, pace, by="ann")
    wait_until(lambda: replays.get(stopped.id).state == "stopped", START_S)
    again = [each for each in refused if bus.get_task(each, "mail").epoch]
    return Showcase(
        done=done[0],
        dead=broken[1],
        delayed=delayed,
        discarded=broken[0],
        waiting=waiting[0],
        again=again[0],
        group=max(bus.dead_groups("images"), key=lambda row: row["count"])[
            "fingerprint"
        ],
        frozen=frozen.id,
        stopped=stopped.id,
        agent="gpu-1@studio",
    )


def _dead(topic: str) -> int:
    return int(bus.stats(topic)["dead"])
