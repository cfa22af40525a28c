"""A topic with a task in every state, with every way to wound it by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis

import bus
from bus import keys
from tests.support.desk import Desk


@dataclass
class Town:
    """A topic with a task in every state."""

    client: redis.Redis
    topic: str
    waiting: str
    delayed: str
    retried: str
    running: str
    dead: str
    done: str
    sid: str  # of the running task

    def key(self, name: str) -> str:
        return keys.named(name, self.topic)

    def group(self) -> str:
        [fingerprint] = self.client.hkeys(self.key("errors"))  # type: ignore[misc]
        return keys.group_key(self.topic, str(fingerprint))

    def letter(self) -> str:
        return str(self.client.hget(self.key("dead_index"), self.dead))


def build_town(redis_client: redis.Redis, test_topic: str) -> Town:
    """A whole topic with a task in each state."""
    desk = Desk(test_topic)
    ids = bus.enqueue_many(test_topic, range(4))
    running, dead, done, retried = desk.claim(4)
    desk.complete(done)
    desk.fail(dead, final=True)
    desk.fail(retried, delay_s=60)
    waiting = bus.enqueue_task(test_topic, "waiting")
    delayed = bus.enqueue_task(test_topic, "delayed", delay_s=60)
    assert {running.id, dead.id, done.id, retried.id} == set(ids)
    return Town(
        redis_client,
        test_topic,
        waiting,
        delayed,
        retried.id,
        running.id,
        dead.id,
        done.id,
        running.sid,
    )


SABOTAGE: dict[str, Callable[[Town], object]] = {
    "a lost entry": lambda t: t.client.xdel(t.key("tasks_stream"), t.sid),
    "a lost record": lambda t: t.client.hdel(t.key("tasks"), t.waiting),
    "a record that names another entry": lambda t: t.client.hset(
        t.key("tasks"), t.running, "1-1|0|0|0|0||"
    ),
    "a task in the stream twice": lambda t: t.client.xadd(
        t.key("tasks_stream"), {"id": t.running, "json": "1", "meta": ""}
    ),
    "a forgotten due time": lambda t: t.client.zrem(t.key("delayed"), t.delayed),
    "a forgotten payload": lambda t: t.client.hdel(t.key("parked"), t.delayed),
    "a payload nobody waits for": lambda t: t.client.hset(
        t.key("parked"), t.running, "x"
    ),
    "a due time of nobody": lambda t: t.client.zadd(t.key("delayed"), {"nobody": 1}),
    "a running task that is due": lambda t: t.client.zadd(
        t.key("delayed"), {t.running: 1}
    ),
    "a history of nobody": lambda t: t.client.hset(t.key("attempts"), t.done, "{}"),
    "a lost letter": lambda t: t.client.xdel(t.key("dead"), t.letter()),
    "a letter out of the index": lambda t: t.client.hdel(t.key("dead_index"), t.dead),
    "a letter of a live task": lambda t: t.client.hset(
        t.key("dead_index"), t.waiting, t.letter()
    ),
    "a letter out of its group": lambda t: t.client.zrem(t.group(), t.letter()),
    "a group without facts": lambda t: t.client.delete(t.key("errors")),
    "a result twice": lambda t: t.client.xadd(
        t.key("results"), {"id": t.done, "json": "{}"}
    ),
    "a result of a task that ended never": lambda t: t.client.xadd(
        t.key("results"), {"id": "nobody", "json": "{}"}
    ),
    "an end of a live task": lambda t: t.client.zadd(t.key("done"), {t.running: 1}),
    "an end of a dead task": lambda t: t.client.zadd(t.key("done"), {t.dead: 1}),
    "a count too many": lambda t: t.client.hincrby(t.key("counters"), "accepted", 1),
    "a count too few": lambda t: t.client.hincrby(t.key("counters"), "done", -1),
}
