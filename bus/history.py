"""What went before: a task's failed attempts and replays, one JSON object per line.

Live tasks keep these lines in the hash `attempts`, letters and the results of tasks
that did not end at their first attempt in a field of that name. Only the newest 50 are
kept. A line whose object has `replay` tells of a replay, any other of an attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from . import keys, messages, records

ORIGINAL_MOST: Final = 64 * 1024  # bytes of a payload that is kept when replaced
_BY_MOST: Final = 200  # characters of whoever replayed it

Rows = tuple[dict[str, Any], ...]


class Past(NamedTuple):
    """How often a task was replayed; the attempts that failed; who replayed it."""

    epoch: int
    attempts: Rows
    replays: Rows


def parse(text: str, epoch: int = 0) -> Past:
    """The past in lines; a broken line is kept as an attempt with its `raw` text."""
    attempts: list[dict[str, Any]] = []
    replays: list[dict[str, Any]] = []
    for line in text.split("\n"):
        if not line:
            continue
        try:
            row = orjson.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            attempts.append({"raw": line})
        elif "replay" in row:
            row.pop("mark", None)
            row.pop("digest", None)
            replays.append({"epoch": row.pop("replay"), **row})
        else:
            attempts.append(_of_agent(row))
    return Past(epoch, tuple(attempts), tuple(replays))


def _of_agent(attempt: dict[str, Any]) -> dict[str, Any]:
    """An attempt with its agent's id; of those lost the consumer was written once."""
    agent = attempt.get("agent")
    if isinstance(agent, str) and "#" in agent:
        return {**attempt, "agent": keys.agent_of(agent)}
    return attempt


_NONE: Final = Past(0, (), ())


def of_result(fields: Mapping[str, str]) -> Past:
    """The past in a result entry; empty for a task that ended at its first attempt."""
    epoch = records.number(fields.get("epoch", ""))
    if epoch is None:
        return _NONE  # whatever it has, it is not ours
    return parse(fields.get("attempts", ""), epoch)


def row_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """A result entry as its row, with its past among the members where it has one; its
    fields as they are where somebody else wrote no JSON.

    Rows travel by the thousand and to everybody who follows, so tracebacks and replaced
    payloads are left to those who look at the task.
    """
    row = messages.parse_row(fields.get("json", "")) or dict(fields)
    epoch, attempts, replays = of_result(fields)
    if not (epoch or attempts):
        return row
    return {
        **row,
        "epoch": epoch,
        "attempts": [_short(attempt) for attempt in attempts],
        "replays": [_without(replay, "payload") for replay in replays],
    }


def _short(attempt: dict[str, Any]) -> dict[str, Any]:
    error = attempt.get("error")
    if not isinstance(error, dict):
        return attempt
    return {**attempt, "error": _without(error, "traceback")}


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def replay_line(
    letter: str,
    by: str | None,
    digest: str,
    original: bytes | None,
    job: str | None = None,
) -> bytes:
    """The end of a replay's line; the script puts epoch, mark and time in front.

    `letter` is the entry id of the letter that was replayed, `digest` that of the
    payload it runs with from now on, by which a repeat is told; `original` the payload
    that an edited one replaces: it stays readable, up to 64 KiB, beyond that its size.
    `job` is the bulk replay it was part of.
    """
    # Lone surrogates become escapes; the letter must stay valid UTF-8.
    who = by and by[:_BY_MOST].encode("utf-8", "backslashreplace").decode()
    edited = original is not None
    told = {"by": who, "letter": letter, "edited": edited, "digest": digest}
    if job is not None:
        told["job"] = job
    tail = orjson.dumps(told)[1:-1]
    if original is None:
        return tail + b"}"
    if len(original) > ORIGINAL_MOST:
        return tail + b',"payload_bytes":%d}' % len(original)
    return tail + b',"payload":%b}' % original


def replayed_as(line: str) -> tuple[bool, str]:
    """Whether the replay of a line edited the payload; the digest of what then ran."""
    row = orjson.loads(line)
    return bool(row.get("edited")), str(row.get("digest", ""))


def error_text(attempt: dict[str, Any]) -> str:
    """`Type: message` of an attempt on one line, cut short."""
    error = _error(attempt)
    kind, said = error.get("type") or "an error", str(error.get("message") or "")
    line = f"{kind}: {said}" if said else str(kind)
    line = " ".join(line.split())
    return line if len(line) <= 160 else line[:159] + "…"


def is_lost(attempt: dict[str, Any]) -> bool:
    """Whether an attempt ended with its agent."""
    return _error(attempt).get("type") == "LeaseLost"


def _error(attempt: dict[str, Any]) -> dict[str, Any]:
    error = attempt.get("error")
    return error if isinstance(error, dict) else {}
