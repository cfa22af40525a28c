"""What bodies of requests say, checked: JSON values to arguments of the bus.

Pure functions, for every door to the API. Shapes and types are judged here, ranges by
the bus: each wrong field is named by a JSON pointer, nothing unknown is let through.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bus import messages, purges
from bus.conf import conf
from bus.tasks import Wanted

from .members import (
    Kind,
    anything,
    flag,
    invalid,
    listed,
    members,
    number,
    number_or_null,
    table,
    text,
    texts,
    time,
    whole,
    whole_or_null,
)
from .problems import Problem

NO_BODY: Final = "a JSON body is needed, there is none"
EACH: Final = "tasks"  # of a batch, where each is right or wrong by itself
KEY_IN_BATCH_MOST: Final = 240  # characters: the place of a task is added to it


@dataclass(frozen=True, slots=True)
class Enqueue:
    """One task a client sends: where to, what, and what the 201 has to mean."""

    topic: str
    wanted: Wanted
    durability: str | None


@dataclass(frozen=True, slots=True)
class Registration:
    """An agent that registers."""

    agent_id: str
    agent_type: str
    ttl_seconds: float
    meta: dict[str, Any]
    lease_s: int | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token somebody asks for; `topics` are prefixes, without any it reaches all."""

    name: str
    role: str
    topics: tuple[str, ...] = ()
    description: str = ""
    expires_at: datetime | None = None


def enqueue(value: Any, key: str | None = None, principal: str = "") -> Enqueue:
    """A task from a request body; `key` is its Idempotency-Key, of this principal.

    Problem for fields that are missing, unknown or of another type; InvalidPayload and
    PayloadTooLarge for a task beyond the limits.
    """
    given = members(value, _ENQUEUE, ("topic", "task"))
    if key is not None and "id" in given:
        said = "and an Idempotency-Key are two names for one task: send one of them"
        raise invalid([("/id", said)])
    run_at = given.get("run_at")
    wanted = Wanted(
        messages.encode(given["task"]),
        task_id=given.get("id"),
        idempotency_key=key,
        principal=principal if key is not None else "",
        delay_s=given.get("delay_s"),
        run_at_ms=None if run_at is None else round(run_at.timestamp() * 1000),
        max_attempts=given.get("max_attempts"),
        timeout_s=given.get("timeout_s"),
        maxlen=given.get("maxlen"),
    )
    return Enqueue(given["topic"], wanted, given.get("durability"))


def batch(value: Any) -> list[Any]:
    """The tasks of a batch, not looked into yet: each is right or wrong by itself.

    What was outside the limits as it was read is an InvalidPayload among them.
    """
    tasks: list[Any] = members(value, {EACH: listed}, (EACH,))[EACH]
    most = conf.BATCH_MAX_TASKS
    if not 1 <= len(tasks) <= most:
        raise invalid([("/tasks", f"holds {len(tasks):,}, not 1 to {most:,}")])
    return tasks


def batch_key(key: str | None) -> str | None:
    """The Idempotency-Key of a batch; Problem for one that its tasks cannot have."""
    fits = key is None or (0 < len(key) <= KEY_IN_BATCH_MOST and key.isprintable())
    if not fits:
        said = f"is not 1 to {KEY_IN_BATCH_MOST} printable characters"
        raise Problem("invalid_option", f"Idempotency-Key of a batch {said}")
    return key


def replay(value: Any) -> tuple[Any, str | None]:
    """The payload a replay is to run (`...` for its own), and the letter it is of."""
    given = members(value, {"task": anything, "entry_id": text})
    return given.get("task", ...), given.get("entry_id")


def purge(value: Any) -> str:
    """What a topic is to be emptied of: what waits where nothing is said."""
    what: str = members(value, {"what": text}).get("what", purges.WHAT[0])
    return what


def topic_change(value: Any) -> tuple[bool | None, dict[str, float | None]]:
    """Whether to pause a topic or resume it (None: neither), and its new limits."""
    given = members(value, _TOPIC)
    paused = given.pop("paused", None)
    if paused is None and not given:
        raise invalid([("", "says nothing to change")])
    return paused, given


def registration(value: Any) -> Registration:
    """An agent from a request body."""
    given = members(value, _AGENT, ("agent_id", "agent_type"))
    return Registration(
        given["agent_id"],
        given["agent_type"],
        given.get("ttl_seconds", TTL_DEFAULT_S),
        given.get("meta", {}),
        given.get("lease_s"),
    )


TTL_DEFAULT_S: Final = 60.0


def token(value: Any) -> NewToken:
    """A token that is to be made."""
    return NewToken(**members(value, _TOKEN, ("name", "role")))


def nothing(value: Any) -> None:
    """A body that must have no members: a call that takes no options."""
    members(value, {})


_ENQUEUE: Final[dict[str, Kind]] = {
    "topic": text,
    "task": anything,
    "id": text,
    "delay_s": number,
    "run_at": time,
    "max_attempts": whole,
    "timeout_s": number,
    "durability": text,
    "maxlen": whole,
}
_TOPIC: Final[dict[str, Kind]] = {
    "paused": flag,
    "backlog_max": whole_or_null,
    "results_keep": whole_or_null,
    "dead_max": whole_or_null,
    "max_attempts": whole_or_null,
    "timeout_s": number_or_null,
}
_TOKEN: Final[dict[str, Kind]] = {
    "name": text,
    "role": text,
    "topics": texts,
    "description": text,
    "expires_at": time,
}
_AGENT: Final[dict[str, Kind]] = {
    "agent_id": text,
    "agent_type": text,
    "ttl_seconds": number,
    "meta": table,
    "lease_s": whole,
}
