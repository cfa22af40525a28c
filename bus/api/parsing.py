"""What bodies of requests say, checked: JSON values to arguments of the bus.

Pure functions, for every door to the API. Shapes and types are judged here, ranges by
the bus: each wrong field is named by a JSON pointer, nothing unknown is let through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bus import messages, purges
from bus.conf import conf
from bus.tasks import Wanted

from .problems import Problem

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
    given = _members(value, _ENQUEUE, ("topic", "task"))
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
    """The tasks of a batch, not looked into yet: each is right or wrong by itself."""
    tasks: list[Any] = _members(value, {"tasks": _list}, ("tasks",))["tasks"]
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
    given = _members(value, {"task": _any, "entry_id": _text})
    return given.get("task", ...), given.get("entry_id")


def purge(value: Any) -> str:
    """What a topic is to be emptied of: what waits where nothing is said."""
    what: str = _members(value, {"what": _text}).get("what", purges.WHAT[0])
    return what


def topic_change(value: Any) -> tuple[bool | None, dict[str, float | None]]:
    """Whether to pause a topic or resume it (None: neither), and its new limits."""
    given = _members(value, _TOPIC)
    paused = given.pop("paused", None)
    if paused is None and not given:
        raise invalid([("", "says nothing to change")])
    return paused, given


def registration(value: Any) -> Registration:
    """An agent from a request body."""
    given = _members(value, _AGENT, ("agent_id", "agent_type"))
    return Registration(
        given["agent_id"],
        given["agent_type"],
        given.get("ttl_seconds", TTL_DEFAULT_S),
        given.get("meta", {}),
    )


def heartbeat(value: Any) -> float:
    """For how many seconds an agent wants to stay registered."""
    given = _members(value, {"ttl_seconds": _number})
    return float(given.get("ttl_seconds", TTL_DEFAULT_S))


TTL_DEFAULT_S: Final = 60.0


def token(value: Any) -> NewToken:
    """A token that is to be made."""
    return NewToken(**_members(value, _TOKEN, ("name", "role")))


def nothing(value: Any) -> None:
    """A body that must have no members: a call that takes no options."""
    _members(value, {})


# The types of JSON members; each gives back the value, or ... for a wrong one.


def _any(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else ...


def _number(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else ...


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON knows one kind of number: 2.0 is 2
    return value if isinstance(value, int) and not isinstance(value, bool) else ...


def _flag(value: Any) -> Any:
    return value if isinstance(value, bool) else ...


def _whole_or_null(value: Any) -> Any:
    return None if value is None else _whole(value)


def _number_or_null(value: Any) -> Any:
    return None if value is None else _number(value)


def _list(value: Any) -> Any:
    return value if isinstance(value, list) else ...


def _texts(value: Any) -> Any:
    texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return tuple(value) if texts else ...


def _table(value: Any) -> Any:
    return value if isinstance(value, dict) else ...


def _time(value: Any) -> Any:
    when = parsed_time(value) if isinstance(value, str) else None
    return ... if when is None else when


def parsed_time(text: str) -> datetime | None:
    """A time from ISO 8601 text with an offset; None if it is none."""
    try:
        when = datetime.fromisoformat(text)
        when.timestamp()  # the edges of the calendar are outside of it
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo else None


NO_TIME: Final = "is not a time with an offset, such as 2026-01-31T12:00:00Z"
_Kind = Callable[[Any], Any]
_WHAT: Final[dict[_Kind, str]] = {
    _text: "is not a text",
    _number: "is not a number",
    _whole: "is not a whole number",
    _flag: "is not true or false",
    _whole_or_null: "is not a whole number, or null",
    _number_or_null: "is not a number, or null",
    _list: "is not a list",
    _texts: "is not a list of texts",
    _table: "is not an object",
    _time: NO_TIME,
}
_ENQUEUE: Final[dict[str, _Kind]] = {
    "topic": _text,
    "task": _any,
    "id": _text,
    "delay_s": _number,
    "run_at": _time,
    "max_attempts": _whole,
    "timeout_s": _number,
    "durability": _text,
    "maxlen": _whole,
}
_TOPIC: Final[dict[str, _Kind]] = {
    "paused": _flag,
    "backlog_max": _whole_or_null,
    "results_keep": _whole_or_null,
    "dead_max": _whole_or_null,
    "max_attempts": _whole_or_null,
    "timeout_s": _number_or_null,
}
_TOKEN: Final[dict[str, _Kind]] = {
    "name": _text,
    "role": _text,
    "topics": _texts,
    "description": _text,
    "expires_at": _time,
}
_AGENT: Final[dict[str, _Kind]] = {
    "agent_id": _text,
    "agent_type": _text,
    "ttl_seconds": _number,
    "meta": _table,
}


def _members(
    value: Any, shape: Mapping[str, _Kind], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The members of an object, each of its type; all that is wrong at once."""
    if not isinstance(value, dict):
        raise invalid([("", "is not a JSON object")])
    wrong = [(f"/{name}", "is missing") for name in required if name not in value]
    taken = {}
    for name, member in value.items():
        kind = shape.get(name)
        if kind is None:
            wrong.append((f"/{_escaped(name)}", unknown(shape)))
        elif (read := kind(member)) is ...:
            wrong.append((f"/{name}", _WHAT[kind]))
        else:
            taken[name] = read
    if wrong:
        raise invalid(wrong)
    return taken


def unknown(shape: Collection[str]) -> str:
    """What is wrong with a name that is none of these."""
    known = ", ".join(shape)
    return f"is unknown; there are {known}" if known else "is unknown"


def _escaped(name: str) -> str:
    """A member's name as a step of a JSON pointer (RFC 6901), cut short."""
    return name[:80].replace("~", "~0").replace("/", "~1")


def invalid(wrong: list[tuple[str, str]]) -> Problem:
    """The problem of wrong fields: the first few in a sentence, all by pointer."""
    said = "; ".join(f"{at or 'the body'} {what}" for at, what in wrong[:3])
    more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
    rows = [{"pointer": at, "detail": what} for at, what in wrong[:50]]
    return Problem("invalid", said + more, errors=rows)
