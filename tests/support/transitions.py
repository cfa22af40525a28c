"""What the log of transitions says, held against the state diagram.

Where scripts are loaded `logged`, each writes every move of a task into its topic's
log, in the step that makes it: one total order of what happened. `faults` replays it.

A blocking read is no script: waiting and running are both "in the stream" here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import redis

from bus import keys, records, verbs

ABSENT, STREAM, DELAYED = "absent", "in the stream", "delayed"
DEAD, ENDED = "dead", "ended"

# Every move a verb may make of a task. What claims, takes over, buries or purges adopts
# entries that somebody else wrote, on first sight. An audit moves nothing where all is
# whole; a claim ends only what it cannot give since somebody cancelled it.
EDGES: Final[dict[str, set[tuple[str, str]]]] = {
    "enqueue": {(ABSENT, STREAM), (ABSENT, DELAYED)},
    "send": {(ABSENT, STREAM)},
    "claim": {(STREAM, STREAM), (ABSENT, STREAM), (STREAM, ENDED)},
    "lend": {(STREAM, STREAM), (ABSENT, STREAM), (STREAM, ENDED)},
    "recover": {(ABSENT, STREAM)},
    "complete": {(STREAM, ENDED)},
    "finish": {(STREAM, ENDED)},
    "fail": {(STREAM, DELAYED), (STREAM, DEAD), (STREAM, ENDED)},
    "release": {(STREAM, STREAM), (STREAM, ENDED)},
    "reclaim": {
        (STREAM, STREAM),
        (STREAM, DEAD),
        (STREAM, ENDED),
        (ABSENT, STREAM),
        (ABSENT, DEAD),
    },
    "promote": {(DELAYED, STREAM)},
    "cancel": {(STREAM, ENDED), (DELAYED, ENDED), (STREAM, STREAM)},
    "ack": {(STREAM, ENDED), (ABSENT, ENDED)},
    "move_to_dead": {(STREAM, DEAD), (ABSENT, DEAD), (STREAM, ENDED)},
    "replay": {(DEAD, STREAM)},
    "run_now": {(DELAYED, STREAM)},
    "replay_batch": {(DEAD, STREAM)},
    "discard": {(DEAD, ENDED)},
    "undo": {(ENDED, DEAD)},
    "purge": {(STREAM, ENDED), (DELAYED, ENDED), (STREAM, STREAM), (ABSENT, ENDED)},
    "purge_dead": {(DEAD, ENDED)},
}
# Where a cancel falls between a blocking read and its claim, or a group was made again.
RARE: Final = {("claim", STREAM, ENDED), ("lend", STREAM, ENDED)}
SENDS: Final = ("enqueue", "send")
CANCELS: Final = ("cancel", "fail", "release", "reclaim", "purge")
# Which moves a lifetime counter counts; `undo` takes one off.
COUNTED: Final[dict[str, set[tuple[str, str, str]]]] = {
    "accepted": {(verb, *edge) for verb in SENDS for edge in EDGES[verb]},
    "adopted": {
        (verb, ABSENT, after)
        for verb, edges in EDGES.items()
        for before, after in edges
        if before == ABSENT and verb not in SENDS
    },
    "done": {
        ("complete", STREAM, ENDED),
        ("finish", STREAM, ENDED),
        ("ack", STREAM, ENDED),
        ("ack", ABSENT, ENDED),
    },
    "retried": {("fail", STREAM, DELAYED)},
    "died": {
        (verb, before, DEAD)
        for verb in ("fail", "reclaim", "move_to_dead")
        for before in (STREAM, ABSENT)
    },
    "cancelled": {
        (verb, before, ENDED)
        for verb in (*CANCELS, "claim", "lend", "move_to_dead")
        for before in (STREAM, DELAYED, ABSENT)
    },
    "replayed": {(verb, DEAD, STREAM) for verb in ("replay", "replay_batch")},
    "discarded": {(verb, DEAD, ENDED) for verb in ("discard", "purge_dead")},
    "restored": {("undo", ENDED, DEAD)},
    "lost": {
        ("reclaim", before, after)
        for before in (STREAM, ABSENT)
        for after in (STREAM, DEAD)
    },
}


@contextmanager
def logged(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have this process and its children write down all transitions."""
    patch.setenv("MESH_TRANSITION_LOG", "1")
    for name, script in verbs.load(logged=True).items():
        patch.setitem(verbs.SCRIPTS, name, script)
    verbs.keys_of.cache_clear()  # the log is one key more
    yield
    verbs.keys_of.cache_clear()


@dataclass
class Step:
    """One script call that moved something: its writes, in their order."""

    verb: str
    at: str  # the id of its first line
    writes: list[tuple[str, str, list[str], str]] = field(default_factory=list)


def steps(client: redis.Redis, topic: str) -> list[Step]:
    """The log of a topic, call by call."""
    found: list[Step] = []
    lines: Any = client.xrange(keys.named("log", topic))
    for line_id, line in lines:
        if not line["call"]:
            found.append(Step(line["verb"], line_id))
        args = line["args"].split("\n")
        write = (line["command"], line["key"], args, line["reply"])
        found[-1].writes.append(write)
    return found


def faults(client: redis.Redis, topic: str) -> list[str]:
    """Every transition that is no edge of the model, and counters that lie."""
    story = _Story()
    for step in steps(client, topic):
        story.take(step)
    counters: dict[str, str] = client.hgetall(keys.named("counters", topic))  # type: ignore[assignment]
    for name, moves in COUNTED.items():
        count = sum(story.moves[move] for move in moves)
        if name == "discarded":
            count -= story.moves["undo", ENDED, DEAD]
        if count != int(counters.get(name, 0)):
            said = counters.get(name, 0)
            story.found.append(f"{name} is {said}, the log says {count}")
    return story.found


def moves(client: redis.Redis, topic: str) -> Counter[tuple[str, str, str]]:
    """How often each verb made each move."""
    story = _Story()
    for step in steps(client, topic):
        story.take(step)
    return story.moves


class _Story:
    """The containers as the log fills them, and what is wrong with that."""

    def __init__(self) -> None:
        self.records: dict[str, records.Record] = {}
        self.delayed: set[str] = set()
        self.done: set[str] = set()
        self.dead: set[str] = set()
        self.sids: dict[str, tuple[int, ...]] = {}  # the last one of each task
        self.last: dict[str, records.Record] = {}  # also of tasks that ended
        self.moves: Counter[tuple[str, str, str]] = Counter()
        self.found: list[str] = []

    def take(self, step: Step) -> None:
        # `send` meets the first moment of a minute, takes its entries back and leaves
        # it to `enqueue`.
        gone = {sid for write in step.writes for sid in _taken_out(write)}
        writes = [write for write in step.writes if write[3] not in gone]
        touched = {
            task_id: (self._state(task_id), self.last.get(task_id))
            for write in writes
            for task_id in _ids(write)
        }
        for write in writes:
            self._apply(step, write)
        aliases = _aliases(step)
        for task_id, (before, record) in touched.items():
            if task_id not in aliases:
                self._judge(step, task_id, before, record)

    def _apply(self, step: Step, write: tuple[str, str, list[str], str]) -> None:
        command, key, args, reply = write
        ids = _ids(write)
        if key == "tasks_stream":
            for task_id in ids:
                sid = _order(reply)
                if sid <= self.sids.get(task_id, ()):
                    self._say(step, task_id, f"got {reply}, no newer than its last")
                self.sids[task_id] = sid
        elif key == "tasks" and command == "HSET":
            for task_id, text in zip(ids, args[1::2], strict=True):
                record = records.parse_record(text)
                self.records[task_id] = self.last[task_id] = record
        elif key == "tasks":
            for task_id in ids:
                self.records.pop(task_id, None)
        else:
            held = {"delayed": self.delayed, "done": self.done, "dead_index": self.dead}
            put = command in ("HSET", "ZADD")
            (held[key].update if put else held[key].difference_update)(ids)

    def _state(self, task_id: str) -> str:
        record = self.records.get(task_id)
        if record is not None:
            return STREAM if record.sid else DELAYED
        if task_id in self.dead:
            return DEAD
        return ENDED if task_id in self.done else ABSENT

    def _judge(
        self, step: Step, task_id: str, before: str, old: records.Record | None
    ) -> None:
        after, record = self._state(task_id), self.last.get(task_id)
        self.moves[step.verb, before, after] += 1
        if (before, after) not in EDGES.get(step.verb, set()):
            self._say(step, task_id, f"moved it from {before} to {after}")
        homes = [task_id in self.records, task_id in self.dead, task_id in self.done]
        if sum(homes) != 1:
            self._say(step, task_id, f"left it in {sum(homes)} homes")
        if (after == DELAYED) != (task_id in self.delayed):
            self._say(step, task_id, "left its due time behind, or none")
        lives = after in (STREAM, DELAYED)
        if record is None or old is None or not lives or before == ABSENT:
            return
        grown = {
            "attempt": record.attempt - old.attempt,
            "epoch": record.epoch - old.epoch,
            "lost": record.lost - old.lost,
        }
        if step.verb in ("replay", "replay_batch"):
            if grown["epoch"] != 1 or record.attempt or record.lost:
                self._say(step, task_id, f"made {record} of {old}")
            return
        wanted = {"attempt": 0, "epoch": 0, "lost": 0}
        wanted |= {"fail": {"attempt": 1}, "reclaim": {"lost": 1}}.get(step.verb, {})
        if grown != wanted:
            self._say(step, task_id, f"made {record} of {old}")
        if record.sid and record.sid == old.sid:
            flagged = step.verb in ("cancel", "purge")  # its agent is asked to stop
            if record.n != old.n + (not flagged):
                self._say(step, task_id, f"fence {old.n} became {record.n}")

    def _say(self, step: Step, task_id: str, what: str) -> None:
        self.found.append(f"{step.at} {step.verb} {task_id}: {what}")


def _taken_out(write: tuple[str, str, list[str], str]) -> list[str]:
    """Entries that a write took out of the stream."""
    command, key, args, _ = write
    return args if (command, key) == ("XDEL", "tasks_stream") else []


def _ids(write: tuple[str, str, list[str], str]) -> list[str]:
    """The tasks a write is about."""
    command, key, args, _ = write
    if key == "tasks_stream":
        # `* id <id> json …`; what is deleted there is told by its record.
        return [args[2]] if command == "XADD" else []
    if command == "HSET":
        return args[::2]
    if command == "ZADD":
        return args[1::2]
    return [each for each in args if each]  # HDEL '' is a write that changes nothing


def _aliases(step: Step) -> set[str]:
    """Names under which a letter is found as well, which are no tasks."""
    named = [
        set(_ids(write))
        for write in step.writes
        if write[1] == "dead_index" and write[0] == "HSET"
    ]
    if step.verb == "move_to_dead" and len(named) == 2:
        return named[1] - named[0]
    if step.verb in ("replay", "replay_batch", "discard", "purge_dead"):
        # HDEL id alias: the task is the one that goes somewhere.
        gone = [set(_ids(w)) for w in step.writes if w[1] == "dead_index"]
        kept = [set(_ids(w)) for w in step.writes if w[1] in ("tasks", "done")]
        return set().union(*gone) - set().union(*kept)
    if step.verb == "undo" and len(named) == 2:
        return named[1] - named[0]
    return set()


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))
