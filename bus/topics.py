"""Topics: which there are, how they stand, pause and limits."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from . import (
    connection,
    errors,
    keys,
    messages,
    records,
    refusals,
    roles,
    scripts,
    volley,
)
from .conf import conf

log = logging.getLogger("bus.topics")

_NAMED_MOST: Final = 10  # topics in a sentence
_KEYS_A_LOOK: Final = 1_000  # 0.3 ms of the server
READER_MS: Final = 15_000  # a reader silent for longer is no agent at work

NAME: Final = keys.TOPIC_SHAPE.pattern

# Settings of a topic that anybody may set, with what each must look like.
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "backlog_max": (1, 100_000_000),
    "results_keep": (0, 10_000_000),
    "dead_max": (1, 10_000_000),
    "max_attempts": (1, 1_000),
    "timeout_s": (records.TIMEOUT_LEAST_S, records.TIMEOUT_MOST_S),
}


def list_topics() -> list[str]:
    """Every known topic, sorted."""
    with refusals.guard():
        return sorted(connection.reader().smembers(keys.TOPICS))


def is_there(topic: str) -> bool:
    """Whether the server has anything of a topic, listed or not."""
    keys.check_topic(topic)
    names = [keys.named(name, topic) for name in keys.WITNESSES]
    with refusals.guard():
        return bool(connection.reader().exists(*names))


def unlisted(cursor: int) -> tuple[int, list[str]]:
    """Topics in a stretch of all keys that are there, and not on the list.

    Begins with 0; returns where to go on as well, 0 after the last key.
    """
    # In this order: a topic that is being deleted goes off the list after its keys.
    with refusals.guard():
        client = connection.reader()
        cursor, names = client.scan(cursor, match="*{*}*", count=_KEYS_A_LOOK)
        found = {topic for name in names if (topic := keys.topic_of(name))}
        lost = found - set(client.smembers(keys.TOPICS)) if found else set()
    return cursor, [topic for topic in sorted(lost) if is_there(topic)]


def bring_back(topic: str) -> None:
    """Put a topic on the list again that somebody took off it; TooManyTopics."""
    scripts.forget_topics(topic)
    scripts.ensure_topic(topic, agent=True)
    log.warning("%s: it was on the list of topics no more, and is again", topic)


def stats(topic: str) -> dict[str, Any]:
    """Counts, limits and the ledger of one topic, read in one moment.

    `oldest_s` is the age of the oldest waiting task, None if none waits; `readers` are
    agents by hand, unregistered too, with a recent sign of life. The ledger balances
    when `drift` is 0: accepted + adopted = live + done + dead + discarded + cancelled
    + settled. What an undo `restored` is `discarded` no more. The audit counts what it
    `repaired` and the wounds it saw that it left `unmended`; `settled` is what a person
    entered of a drift (`settle_ledger`).
    """
    keys.check_topic(topic)
    return _standing(topic, scripts.run("stats", topic, [READER_MS]))


def all_stats() -> list[dict[str, Any]]:
    """`stats` of every known topic, sorted, in a few round trips however many."""
    return stats_of(list_topics())


def stats_of(names: Sequence[str]) -> list[dict[str, Any]]:
    """`stats` of these topics, in their order, in one round trip however many."""
    replies = volley.run("stats", names, [READER_MS])
    # Asked alone, an error is raised as ours, with the key it is about.
    return [
        stats(topic) if isinstance(flat, Exception) else _standing(topic, flat)
        for topic, flat in zip(names, replies, strict=True)
    ]


def _standing(topic: str, told: list[list[Any]]) -> dict[str, Any]:
    """The reply of the stats script as a dict."""
    raw, counters, own = (dict(zip(x[::2], x[1::2], strict=True)) for x in told)
    count = {name: counted(counters.get(name, "0")) for name in COUNTERS}
    live, dead = int(raw["live"]), int(raw["dead"])
    oldest = raw["oldest"]
    now = int(raw["now"])
    came = count["accepted"] + count["adopted"]
    went = count["done"] + dead + count["discarded"] + count["cancelled"]
    return {
        "topic": topic,
        "group": raw["group"] or None,
        "readers": int(raw["readers"]),
        "waiting": int(raw["waiting"]),
        "delayed": int(raw["delayed"]),
        "running": int(raw["running"]),
        "dead": dead,
        "dead_groups": int(raw["groups"]),
        "results": int(raw["results"]),
        "paused": own.get("paused") == "1",
        "oldest_s": _age_s(now, oldest) if oldest else None,
        "backlog": live,
        **count,
        "repaired_at": _time(counters, "repaired_at"),
        "settled_at": _time(counters, "settled_at"),
        "unmended": int(raw["unmended"]),
        "limits": {name: _limit(own, name) for name in LIMITS},
        "ledger": {
            "came": came,
            "live": live,
            "ended": went,
            "settled": count["settled"],
            "drift": came - live - went - count["settled"],
        },
    }


def _age_s(now_ms: int, entry_id: str) -> float:
    """Since when an entry is there: 0 where its id is ahead of the clock."""
    return max(0, now_ms - messages.entry_ms(entry_id)) / 1000


_WHOLE: Final = re.compile(r"-?[0-9]{1,15}")
COUNTERS: Final = [
    "accepted",
    "adopted",
    "repeated",
    "done",
    "retried",
    "died",
    "lost",
    "replayed",
    "discarded",
    "restored",
    "cancelled",
    "orphans",
    "repaired",
    "settled",
]


def counted(stored: str) -> int:
    """A counter; 0 where somebody wrote what is none, until the audit takes it out."""
    return int(stored) if _WHOLE.fullmatch(stored) else 0


def _time(counters: dict[str, str], name: str) -> str | None:
    ms = counted(counters.get(name, "0"))
    return messages.iso(ms) if 0 < ms <= messages.TIME_MOST_MS else None


def own_limits(topic: str) -> dict[str, float | None]:
    """The limits that were set for the topic; None for one that was not."""
    return {name: _own(text, name) for name, text in _settings(topic, *LIMITS).items()}


def _settings(topic: str, *names: str) -> dict[str, str]:
    """Settings of a topic as they stand there; empty for one that was not set."""
    key = keys.named("settings", keys.check_topic(topic))
    with refusals.guard():
        stored = connection.reader().hmget(key, *names)
    return {name: text or "" for name, text in zip(names, stored, strict=True)}


def _own(stored: str, name: str) -> float | None:
    """A limit, as the scripts read it: not what somebody wrote past our checks."""
    if name == "timeout_s":
        told = records.seconds(stored)
    else:
        told = float(stored) if _WHOLE.fullmatch(stored) and stored[0] != "-" else None
    return None if told is None else _plain(told)


def _limit(own: dict[str, str], name: str) -> float:
    told = _own(own.get(name, ""), name)
    return _plain(float(getattr(conf, name.upper()))) if told is None else told


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else value


def check_known(topic: str) -> str:
    """The topic itself; TopicNotFound, which names those there are, or InvalidName.

    A topic is known once something was sent to it, a group made, or a limit set; one
    that somebody took off the list comes back when it is named.
    """
    known = list_topics()
    if keys.check_topic(topic) in known:
        return topic
    if is_there(topic):
        bring_back(topic)
        return topic
    alike = difflib.get_close_matches(topic, known, n=_NAMED_MOST, cutoff=0.5)
    rest = [name for name in known if name not in alike]
    named = [*alike, *rest][:_NAMED_MOST]
    there = ", ".join(named) if named else "none yet"
    if len(known) > len(named):
        there += f" and {len(known) - len(named):,} more"
    raise errors.TopicNotFound(f"no topic {topic!r}; there are: {there}")


def pause(topic: str) -> None:
    """No task starts later than 1 s after this; TopicNotFound: a slip makes none."""
    _set(check_known(topic), {"paused": "1"})


def resume(topic: str) -> None:
    """Undo `pause`; TopicNotFound."""
    _set(check_known(topic), {"paused": ""})


def set_limits(topic: str, **limits: float | None) -> None:
    """Set limits of one topic (`LIMITS`); None returns one to the default."""
    _set(topic, _values(limits))


def changed(
    topic: str,
    *,
    paused: bool | None = None,
    limits: Mapping[str, float | None] | None = None,
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Pause or resume a topic, set limits of it, in one step; what that changed:

    the verb, what was before, what is after. Where all stands as is wanted nothing is
    written or told. InvalidOption for a limit outside its range. OutcomeUnknown has
    what may have been changed in its facts: a repeat would find nothing to tell.
    """
    own = _settings(topic, "paused", *LIMITS)
    values = {
        name: text
        for name, text in _values(limits or {}).items()
        if _own(text, name) != _own(own[name], name)
    }
    told = []
    if values:  # as they are from here on: what is read back could be another's
        before, after = ({x: _limit(at, x) for x in values} for at in (own, values))
        told.append((roles.LIMIT, before, after))
    if paused is not None and paused != (own["paused"] == "1"):
        verb = roles.PAUSE if paused else "resume"
        told.append((verb, {"paused": not paused}, {"paused": paused}))
        values["paused"] = "1" if paused else ""
    try:
        if values:
            _set(topic, values)
    except errors.OutcomeUnknown as exc:
        exc.facts["changes"] = told
        raise
    return told


def _values(limits: Mapping[str, float | None]) -> dict[str, str]:
    """Limits as they are kept; InvalidOption."""
    values = {}
    for name, value in limits.items():
        if name not in LIMITS:
            raise errors.InvalidOption(f"no limit {name!r}; there are {[*LIMITS]}")
        least, most = LIMITS[name]
        if value is None:
            values[name] = ""
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = name == "timeout_s" or (number and value % 1 == 0)
        if not number or not least <= value <= most or not whole:
            raise errors.InvalidOption(f"{name} {value!r} is not {least:,} to {most:,}")
        values[name] = f"{float(value):.15g}"
    return values


def _set(topic: str, values: dict[str, str]) -> None:
    keys.check_topic(topic)
    scripts.ensure_topic(topic)
    scripts.run("set_topic", topic, [part for pair in values.items() for part in pair])
