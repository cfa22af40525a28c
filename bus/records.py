"""What the mesh keeps of a live task beside its payload, as only Lua writes it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

# How long an attempt may be allowed, whoever says so; no attempt ends sooner.
TIMEOUT_LEAST_S: Final = 0.001
TIMEOUT_MOST_S: Final = 7 * 86_400.0
ATTEMPTS_MOST: Final = 1_000


class Record(NamedTuple):
    """What the mesh knows of a live task beside its payload; written by Lua only."""

    sid: str
    attempt: int  # failed attempts so far
    epoch: int
    n: int
    lost: int
    flags: str
    options: str


_FRESH: Final = "0|0|0|0||"


def parse_record(text: str) -> Record:
    """A record as stored in the hash of live tasks."""
    sid, _, rest = text.partition("|")
    if rest == _FRESH:  # nothing has happened to it yet, as to most
        return Record(sid, 0, 0, 0, 0, "", "")
    sid, attempt, epoch, n, lost, flags, options = text.split("|", 6)
    return Record(sid, int(attempt), int(epoch), int(n), int(lost), flags, options)


def is_first(record: Record) -> bool:
    """Whether nobody was given the task before, since it was sent."""
    return not (record.attempt or record.epoch or record.n or record.lost)


def is_sid(text: str | None) -> bool:
    """Whether the server takes this for the id of one entry; a hand may have written
    something else where one should stand."""
    ms, _, seq = (text or "").partition("-")
    plain = text is not None and text.isascii() and ms.isdigit() and seq.isdigit()
    return plain and len(text or "") < 64 and max(int(ms), int(seq)) < 2**64


def place_of(entry_id: str) -> tuple[int, int]:
    """A stream id as two numbers, which compare as the server compares them."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq)


def is_upto(sid: str, last: str | None) -> bool:
    """Whether an entry came no later than another; False where there is no other."""
    return False if not last else place_of(sid) <= place_of(last)


def parse_options(text: str) -> dict[str, str]:
    """`m=3,t=60` as a dict; unknown marks are kept for newer code to read."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: value for name, _, value in pairs}


def may_take(seconds: float) -> bool:
    """Whether an attempt may be allowed that long; NaN may not."""
    return TIMEOUT_LEAST_S <= seconds <= TIMEOUT_MOST_S


def may_try(attempts: int) -> bool:
    """Whether a task may be allowed so many attempts."""
    return 1 <= attempts <= ATTEMPTS_MOST


def seconds(text: str | None) -> float | None:
    """A time limit as the mesh keeps it, or None for whatever else somebody wrote."""
    if not text:  # as for most topics, asked with each task
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if may_take(value) else None


def timeout_s(options: str) -> float | None:
    """A task's own time limit per attempt, if it was sent with one."""
    return seconds(parse_options(options).get("t")) if options else None


def own(options: str) -> dict[str, Any]:
    """What a task was sent with, as results tell it; nothing for most tasks.

    `max_attempts`, `timeout_s` (seconds), `again_of`, each where it has one.
    """
    if not options:
        return {}
    marks = parse_options(options)
    told = {
        "max_attempts": number(marks.get("m", "")),
        "timeout_s": seconds(marks.get("t")),
        "again_of": marks.get("of"),
    }
    return {name: value for name, value in told.items() if value is not None}


def number(text: str, digits: int = 19) -> int | None:
    """A plain decimal number of at most so many digits, or None for whatever else.

    isdigit alone lets through what int() does not read, such as ².
    """
    plain = text.isascii() and text.isdigit() and len(text) <= digits
    return int(text) if plain else None
