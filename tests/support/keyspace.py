"""What must hold between the containers of a topic at any moment.

`wounds` reads a whole topic and says in sentences what does not fit. It knows
the data model (the table in `bus/keys.py`), not how the scripts keep it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import redis

import bus
from bus import keys, records


def wounds(client: redis.Redis, topic: str) -> list[str]:
    """Every broken invariant of one topic; empty when it is whole."""
    space = _Space(client, topic)
    found = [
        *_live(space),
        *_entries(space),
        *_pending(space),
        *_parked(space),
        *_dead(space),
        *_ended(space),
    ]
    drift = bus.stats(topic)["ledger"]["drift"]
    if drift:
        found.append(f"the ledger is off by {drift:+}")
    return found


class _Space:
    """One topic as it lies on the server, read in one transaction."""

    def __init__(self, client: redis.Redis, topic: str) -> None:
        def key(name: str) -> str:
            return keys.named(name, topic)

        group = client.hget(key("settings"), "group")
        pipe: Any = client.pipeline(transaction=True)
        pipe.xrange(key("tasks_stream"))
        pipe.hgetall(key("tasks"))
        pipe.zrange(key("delayed"), 0, -1)
        pipe.hkeys(key("parked"))
        pipe.zrange(key("done"), 0, -1)
        pipe.xrange(key("results"))
        pipe.xrange(key("dead"))
        pipe.hgetall(key("dead_index"))
        pipe.hkeys(key("errors"))
        pipe.hkeys(key("attempts"))
        pipe.exists(key("tasks_stream"))
        got = pipe.execute()
        self.client, self.topic = client, topic
        self.entries: dict[str, dict[str, str]] = dict(got[0])
        self.records = {i: records.parse_record(text) for i, text in got[1].items()}
        self.delayed, self.parked = set(got[2]), set(got[3])
        self.done = set(got[4])
        self.results: list[tuple[str, dict[str, str]]] = got[5]
        self.letters: dict[str, dict[str, str]] = dict(got[6])
        self.dead_index: dict[str, str] = got[7]
        self.fingerprints, self.histories = set(got[8]), set(got[9])
        self.pending: list[dict[str, Any]] = []
        if group and got[10]:
            stream = key("tasks_stream")
            self.pending = client.xpending_range(stream, group, "-", "+", 100_000)  # type: ignore[assignment]


def _live(space: _Space) -> list[str]:
    """A live task is in exactly one container, and in no terminal one."""
    found = []
    for task_id, record in space.records.items():
        waits = task_id in space.delayed
        if record.sid and record.sid not in space.entries:
            found.append(f"task {task_id} names entry {record.sid}, which is gone")
        if record.sid and waits:
            found.append(f"task {task_id} is in the stream and delayed")
        if not record.sid and not waits:
            found.append(f"task {task_id} is in no container")
        if task_id in space.dead_index:
            found.append(f"task {task_id} is live and dead")
        if task_id in space.done:
            found.append(f"task {task_id} is live and done")
    return found


def _entries(space: _Space) -> list[str]:
    """Every entry of ours is one live task's, and the one its record names."""
    found = []
    for sid, fields in space.entries.items():
        ours = list(fields) == ["id", "json", "meta"]
        if not ours or not re.fullmatch(r"(?:e=\d+(?:,.*)?)?", fields["meta"]):
            continue  # somebody else's; adopted when it is first read
        record = space.records.get(fields["id"])
        if record is None or record.sid != sid:
            found.append(f"entry {sid} of task {fields['id']} stands for nothing")
    return found


def _pending(space: _Space) -> list[str]:
    """No row of the pending list without its entry."""
    return [
        f"row {row['message_id']} of {row['consumer']} has no entry"
        for row in space.pending
        if row["message_id"] not in space.entries
    ]


def _parked(space: _Space) -> list[str]:
    """Due times and parked payloads belong to each other and to live tasks."""
    found = [f"task {i} is due, not parked" for i in space.delayed - space.parked]
    found += [f"task {i} is parked, not due" for i in space.parked - space.delayed]
    live = set(space.records)
    found += [f"{i} is delayed without a record" for i in space.delayed - live]
    found += [f"history of {i}, which is not live" for i in space.histories - live]
    return found


def _dead(space: _Space) -> list[str]:
    """Index, letters and groups name each other."""
    found = []
    aliases = {f"alias:{f['alias']}" for f in space.letters.values() if "alias" in f}
    for task_id, dead_id in space.dead_index.items():
        letter = space.letters.get(dead_id)
        if letter is None:
            found.append(f"the index names letter {dead_id}, which is gone")
        elif letter["id"] != task_id and task_id not in aliases:
            found.append(f"the index gives {task_id} the letter of {letter['id']}")
    grouped: Counter[str] = Counter()
    for dead_id, letter in space.letters.items():
        if space.dead_index.get(letter["id"]) != dead_id:
            found.append(f"letter {dead_id} of {letter['id']} is not in the index")
        grouped[letter["fp"]] += 1
    for fingerprint in space.fingerprints | set(grouped):
        group = keys.group_key(space.topic, fingerprint)
        rows: Any = space.client.zrange(group, 0, -1)
        if len(rows) != grouped[fingerprint] or not set(rows) <= set(space.letters):
            found.append(f"group {fingerprint} does not hold its letters")
        if fingerprint not in space.fingerprints:
            found.append(f"group {fingerprint} has no facts")
    return found


def _ended(space: _Space) -> list[str]:
    """One row per ended task, and the index knows whose they are."""
    rows = Counter(fields.get("id", "") for _, fields in space.results)
    found = [
        f"task {task_id} is recognised as ended and as dead"
        for task_id in space.done & set(space.dead_index)
    ]
    found += [
        f"the row of {task_id} is not in the index"
        for task_id in rows
        if task_id and task_id not in space.done
    ]
    found += [
        f"the row of {fields.get('id')} carries a past that says nothing"
        for _, fields in space.results
        if (fields.get("epoch"), fields.get("attempts")) == ("0", "")
    ]
    found += [f"task {task_id} has {n} rows" for task_id, n in rows.items() if n > 1]
    return found
