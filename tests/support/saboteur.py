"""Somebody who writes into a topic's keys by hand, and not to its good."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import redis

from bus import keys, tasks
from tests.support.waiting import PATIENCE

# What is left must be restored, or told: rows of results are the only record of what
# they hold, so they are not among these.
KEYS: Final = (
    "tasks_stream",
    "tasks",
    "delayed",
    "parked",
    "done",
    "dead",
    "dead_index",
    "errors",
    "attempts",
    "settings",
    "counters",
    "events",
    "minutes",
    "hours",
)


# Two that hold the same tasks: what is torn out of both before anybody has looked is
# gone for good, which proves nothing. The second has a while, in which an audit walks
# through all that is there; on a slow machine that is more, and takes longer.
TWINS: Final = (
    ({"tasks"}, {"tasks_stream", "parked", "delayed"}),
    ({"dead"}, {"dead_index"}),
)
WHILE_S: Final = 4.0 * PATIENCE

Wound = tuple[
    str, str, Callable[[], object]
]  # its name, the key it is in, what it does


class Saboteur:
    """Wounds one topic in every way it can think of, after one seed."""

    def __init__(self, client: redis.Redis, topic: str, seed: int) -> None:
        self.wounds: Counter[str] = Counter()
        self._client: Any = client
        self._topic = topic
        self._dice = random.Random(seed)
        self._plan: list[Wound] = []
        self._last: dict[str, float] = {}  # key -> when it was wounded, monotonic

    def strike(self) -> None:
        """One more wound; each kind before any kind again."""
        if not self._plan:
            self._plan = self._all()
            self._dice.shuffle(self._plan)
        while not (fit := [each for each in self._plan if self._may(each[1])]):
            time.sleep(0.05)
        self._plan.remove(fit[0])
        name, key, wound = fit[0]
        self.wounds[name] += 1
        self._last[key] = time.monotonic()
        # What an earlier wound left may not be there to be wounded again.
        with contextlib.suppress(redis.ResponseError):
            wound()

    def _may(self, key: str) -> bool:
        others: set[str] = set()
        for one, other in TWINS:
            others |= other if key in one else one if key in other else set()
        since = max((self._last.get(name, 0.0) for name in others), default=0.0)
        return time.monotonic() - since > WHILE_S

    def _all(self) -> list[Wound]:
        one: list[Wound] = [
            (
                "stream trimmed",
                "tasks_stream",
                lambda: self._client.xtrim(self._key("tasks_stream"), 0),
            ),
            ("entry deleted", "tasks_stream", self._entry_deleted),
            ("entry copied", "tasks_stream", self._entry_copied),
            ("entry forged", "tasks_stream", self._entry_forged),
            ("record deleted", "tasks", lambda: self._hash_field_deleted("tasks")),
            (
                "record of a foreign shape",
                "tasks",
                lambda: self._record("not|one|of|ours"),
            ),
            ("record of another entry", "tasks", lambda: self._record("1-1|0|0|0|0||")),
            ("due time forgotten", "delayed", self._due_time_forgotten),
            ("due time of nobody", "delayed", lambda: self._zadd("delayed")),
            ("due for ever", "delayed", self._due_for_ever),
            ("payload in no shape", "parked", self._payload_in_no_shape),
            ("end for ever", "done", lambda: self._zadd("done", float("inf"))),
            ("payload forgotten", "parked", lambda: self._hash_field_deleted("parked")),
            ("payload of nobody", "parked", lambda: self._hset("parked", "e=1\n1")),
            ("history of nobody", "attempts", lambda: self._hset("attempts", "{}")),
            ("letter deleted", "dead", self._letter_deleted),
            (
                "letter out of the index",
                "dead_index",
                lambda: self._hash_field_deleted("dead_index"),
            ),
            ("end of nobody", "done", lambda: self._zadd("done")),
            ("records and books deleted", "tasks", self._books_deleted),
            ("entries at their end", "tasks_stream", lambda: self._end("tasks_stream")),
            ("letters at their end", "dead", lambda: self._end("dead")),
            ("group destroyed", "tasks_stream", self._group_destroyed),
            ("consumer deleted", "tasks_stream", self._consumer_deleted),
        ]
        for name in KEYS:
            key = self._key(name)
            gone = functools.partial(self._client.delete, key)
            wrong = functools.partial(self._wrong, key)
            one.append((f"{name} deleted", name, gone))
            one.append((f"{name} of a wrong type", name, wrong))
        return one

    def _key(self, name: str) -> str:
        return keys.named(name, self._topic)

    def _wrong(self, key: str) -> None:
        self._client.delete(key)
        self._client.set(key, "not ours")

    def _end(self, name: str) -> None:
        """The last possible id is used, and the entry under it deleted again."""
        last = f"{2**64 - 1}-{2**64 - 1}"
        self._client.xadd(self._key(name), {"by": "hand"}, id=last)
        self._client.xdel(self._key(name), last)

    def _books_deleted(self) -> None:
        self._client.delete(self._key("tasks"), self._key("counters"))

    def _some_entry(self, name: str) -> Any:
        rows = self._client.xrange(self._key(name), count=200)
        return self._dice.choice(rows) if rows else ("0-1", {"id": "", "json": ""})

    def _entry_deleted(self) -> None:
        self._client.xdel(
            self._key("tasks_stream"), self._some_entry("tasks_stream")[0]
        )

    def _entry_copied(self) -> None:
        fields = self._some_entry("tasks_stream")[1]
        self._client.xadd(self._key("tasks_stream"), fields)

    def _entry_forged(self) -> None:
        forged = {"id": tasks.new_id(), "json": '{"kind":"forged"}', "meta": ""}
        self._client.xadd(self._key("tasks_stream"), forged)

    def _some_field(self, name: str) -> str:
        fields = self._client.hkeys(self._key(name))
        return str(self._dice.choice(fields)) if fields else "nobody"

    def _hash_field_deleted(self, name: str) -> None:
        self._client.hdel(self._key(name), self._some_field(name))

    def _record(self, text: str) -> None:
        task_id = self._some_field("tasks")
        if task_id != "nobody":
            self._client.hset(self._key("tasks"), task_id, text)

    def _due_time_forgotten(self) -> None:
        due = self._client.zrange(self._key("delayed"), 0, -1)
        if due:
            self._client.zrem(self._key("delayed"), self._dice.choice(due))

    def _due_for_ever(self) -> None:
        due = self._client.zrange(self._key("delayed"), 0, -1)
        if due:
            forever = {self._dice.choice(due): float("inf")}
            self._client.zadd(self._key("delayed"), forever, xx=True)

    def _payload_in_no_shape(self) -> None:
        task_id = self._some_field("parked")
        if task_id != "nobody":
            self._client.hset(self._key("parked"), task_id, "not ours")

    def _zadd(self, name: str, score: float = 1) -> None:
        self._client.zadd(self._key(name), {tasks.new_id(): score})

    def _hset(self, name: str, text: str) -> None:
        self._client.hset(self._key(name), tasks.new_id(), text)

    def _letter_deleted(self) -> None:
        self._client.xdel(self._key("dead"), self._some_entry("dead")[0])

    def _group_destroyed(self) -> None:
        group = self._client.hget(self._key("settings"), "group") or "default"
        self._client.xgroup_destroy(self._key("tasks_stream"), group)

    def _consumer_deleted(self) -> None:
        group = self._client.hget(self._key("settings"), "group") or "default"
        rows = self._client.xinfo_consumers(self._key("tasks_stream"), group)
        if rows:
            name = self._dice.choice(rows)["name"]
            self._client.xgroup_delconsumer(self._key("tasks_stream"), group, name)
