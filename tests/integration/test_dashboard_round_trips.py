"""Pages ask Redis as often for a large mesh as for a small one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.test import Client
from redis.connection import AbstractConnection

import bus
from bus import lines, scripts
from dashboard import queries
from tests.support.desk import Desk
from tests.support.pages import signed_in

pytestmark = pytest.mark.django_db

PAGES = [
    *("/", "/topics/", "/topics/size-00/", "/agents/", "/agents/agent-0/"),
    *("/results/", "/results/?topic=size-00", "/replays/", "/replays/new"),
    *("/results/?after=0-0@size-00", "/results/?before=9999999999999-0@size-00"),
    *("/dead/", "/dead/?groups=all", "/dead/?topic=size-00", "/settings/", "/audit/"),
    *("/tasks/?state=waiting", "/tasks/?topic=size-00&state=waiting"),
    *("/tasks/{done}/", "/dead/{dead}/", "/dead/groups/{failure}/"),
    *("/topics/size-00/?span=month", "/topics/size-00/new"),
    "/dead/groups/{failure}/discard?topic=size-00",
]
SMALL, LARGE = 1, 60  # topics; agents as well


def grow(sizes: range) -> None:
    """Topics with tasks that wait, run, are done and dead, and as many agents."""
    for at in sizes:
        topic = f"size-{at:02}"
        bus.enqueue_many(topic, range(60))
        desk = Desk(topic)
        done, dead, *_ = desk.claim(3)
        desk.complete(done)
        desk.fail(dead, final=True)
        desk.fail(desk.one(), final=True, message="no paper" if at % 2 else "no ink")
        bus.register_agent(f"agent-{at}", "resizer", 600, {"topics": [topic]})


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many commands or pipelines leave this process within the block."""
    trips: list[int] = []
    send = AbstractConnection.send_packed_command

    def noted(self: Any, command: Any, check_health: bool = True) -> None:
        trips.append(1)
        send(self, command, check_health)

    def over_a_line(name: str) -> Any:
        send_over = getattr(lines.Line, name)

        def counting(self: Any, *what: Any) -> Any:
            trips.append(1)
            return send_over(self, *what)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", noted)
        for name in ("call_packed", "call_all"):
            patch.setattr(lines.Line, name, over_a_line(name))
        yield trips


def test_a_script_is_a_round_trip(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this a page could ask by scripts as often as it likes."""
    scripts.run("arrived", "size-00")
    with counted(monkeypatch) as trips:
        scripts.run("arrived", "size-00")

    assert len(trips) == 1


def trips_of(
    client: Client, monkeypatch: pytest.MonkeyPatch, paths: dict[str, str]
) -> dict[str, int]:
    """The round trips of each page, once whatever is kept for later is there."""
    found = {}
    for name, path in paths.items():
        client.get(path)
        queries.forget_checks()
        with counted(monkeypatch) as trips:
            response = client.get(path)
        assert response.status_code == 200, path
        found[name] = len(trips)
    return found


def test_a_page_asks_as_often_whatever_the_size_of_the_mesh(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(range(SMALL))
    [(_, row)] = bus.tail_results("size-00", 1)
    letter = bus.list_dead("size-00", 1)[0]
    ids = {
        "done": row["id"],
        "dead": letter.id,
        "failure": bus.dead_groups("size-00")[0]["fingerprint"],
    }
    paths = {path: path.format(**ids) for path in PAGES}
    operator = signed_in("admin")
    small = trips_of(operator, monkeypatch, paths)

    grow(range(SMALL, LARGE))
    large = trips_of(operator, monkeypatch, paths)

    assert large == small
    assert max(large.values()) < 40


def test_a_list_over_many_topics_shows_the_newest_of_all(
    redis_client: redis.Redis,
) -> None:
    grow(range(LARGE))

    page = signed_in("viewer").get("/results/").content.decode()

    ends = []
    for at in range(LARGE):
        [(sid, row)] = bus.tail_results(f"size-{at:02}", 1)
        ends.append((*map(int, sid.split("-")), at, row["id"]))
    newest = [end[-1] for end in sorted(ends, reverse=True)[:50]]
    assert re.findall(r'data-task="([^"]+)"', page) == newest
