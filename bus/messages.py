"""Tasks and the JSON that travels: a task's states, payloads, rows of results.

waiting ─► running ─► done
   ▲          │ ├───► dead ──► waiting (replay) │ discarded (discard; undo: dead)
   │          │ └───► delayed (retry)
   └─ delayed ◄┘      any live state ──► cancelled (a running task: when it ends)

Times are ISO 8601 text in UTC with milliseconds, read from the server's clock.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Final

import orjson

from . import errors
from .conf import conf

WAITING: Final = "waiting"
RUNNING: Final = "running"
DELAYED: Final = "delayed"
DONE: Final = "done"
DEAD: Final = "dead"
CANCELLED: Final = "cancelled"
DISCARDED: Final = "discarded"
STATES: Final = (WAITING, RUNNING, DELAYED, DONE, DEAD, CANCELLED, DISCARDED)
ENDED: Final = frozenset({DONE, DEAD, CANCELLED, DISCARDED})
ROW_STATES: Final = (DONE, CANCELLED, DISCARDED)  # of rows; a hand may write no text
LIVE: Final = frozenset(STATES) - ENDED
TIME_MOST_MS: Final = 253_402_300_799_999  # the end of 9999; what is later is no time
_COMPACT: Final[Any] = {"ensure_ascii": False, "separators": (",", ":")}

_STRICT: Final = (
    orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


@dataclass(frozen=True)
class Task:
    """One task, as a handler or `get_task` sees it.

    `attempt` counts executions from 1 within `epoch`; `epoch` counts replays from 0;
    `fence` is the server's token of this delivery and grows with every one. When the
    last attempt began (`started_at`) is known once the task is done. `attempts` are
    those that failed, `replays` says who put it back to work, with which letter, and
    what an edited payload replaced; of both together the newest 50 are kept. `again_of`
    is the ended task that `run_now` sent this one for.
    """

    id: str
    topic: str
    payload: Any
    state: str = RUNNING
    attempt: int = 0
    epoch: int = 0
    fence: str = ""
    max_attempts: int | None = None
    timeout_s: float | None = None
    enqueued_at: str | None = None
    due_at: str | None = None
    agent: str | None = None
    attempts: tuple[dict[str, Any], ...] = ()
    result: Any = None
    error: dict[str, Any] | None = None
    ended_at: str | None = None
    cancel_requested: bool = False
    started_at: str | None = None
    replays: tuple[dict[str, Any], ...] = ()
    again_of: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to this task by itself."""
        return self.state in ENDED


_UNSAID: Final = {
    each.name: each.default for each in fields(Task) if each.default is not MISSING
}


def task(**known: Any) -> Task:
    """`Task(...)` for a quarter of the time, where each task passes.

    What is frozen sets its fields one by one, with a call for each.
    """
    made = object.__new__(Task)
    vars(made).update(_UNSAID, **known)
    return made


@functools.lru_cache(maxsize=64)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


_MILLIS: Final = tuple(f".{milli:03d}Z" for milli in range(1000))


def iso(ms: int) -> str:
    """ISO 8601 text of a server time in ms since 1970; the year 9999 at most."""
    second, milli = divmod(min(ms, TIME_MOST_MS), 1000)
    return _iso_second(second) + _MILLIS[milli]


def iso_ms(text: Any) -> int | None:
    """The ms since 1970 of ISO 8601 text; None for whatever somebody else wrote."""
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None


def entry_ms(entry_id: str) -> int:
    """The server time, in ms, that a stream id carries."""
    return int(entry_id.partition("-")[0])


def encode(value: Any) -> bytes:
    """Compact JSON of a payload within its limits, or InvalidPayload saying why not.

    orjson writes NaN as null, turns UUIDs and enums into text and bounds nothing, hence
    the walk before it.
    """
    _check(value, "payload", conf.JSON_MAX_DEPTH, conf.JSON_MAX_NODES)
    return _encoded(value, "payload", conf.PAYLOAD_MAX_BYTES)


def encode_result(value: Any, max_bytes: int) -> bytes:
    """Compact JSON of a handler's result, bounded in bytes only."""
    _check(value, "result", _DEPTH_MOST, max_bytes)
    return _encoded(value, "result", max_bytes)


def encode_kept(value: Any) -> bytes:
    """JSON of what is in the mesh already, whatever its size: a letter must hold it."""
    _check(value, "payload", _KEPT_DEPTH_MOST, _KEPT_MOST)
    try:
        return orjson.dumps(value)
    except TypeError as exc:
        # The slow way knows integers beyond 64 bits and depth, but turns keys to text.
        if "Integer" not in str(exc) and "Recursion" not in str(exc):
            raise errors.InvalidPayload(f"payload is not JSON: {exc}") from None
    try:
        return json.dumps(value, allow_nan=False, **_COMPACT).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise errors.InvalidPayload(f"payload is not JSON: {exc}") from None


def written(value: Any) -> bytes:
    """JSON of what the mesh holds, on its way out, whoever put it in and how deep."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, **_COMPACT).encode("utf-8", "replace")


def _encoded(value: Any, what: str, limit: int) -> bytes:
    try:
        text = orjson.dumps(value, option=_STRICT)
    except (TypeError, ValueError, RecursionError) as exc:
        if "Integer exceeds" in str(exc):
            raise errors.InvalidPayload(
                f"{what} holds an integer beyond ±(2^53 - 1), which some readers "
                "would round; send it as text"
            ) from None
        if "surrogates" in str(exc):
            raise errors.InvalidPayload(
                f"{what} is not JSON: it holds half of a surrogate pair (one of "
                "\\ud800 to \\udfff alone), which is no character"
            ) from None
        raise errors.InvalidPayload(f"{what} is not JSON: {exc}") from None
    return _small(text, what, limit)


def check_size(text: bytes) -> bytes:
    """JSON of a payload that somebody else checked, or PayloadTooLarge."""
    return _small(text, "payload", conf.PAYLOAD_MAX_BYTES)


def _small(text: bytes, what: str, limit: int) -> bytes:
    if len(text) > limit:
        raise errors.PayloadTooLarge(
            f"{what} has {len(text):,} bytes of JSON, more than the {limit:,} allowed; "
            "store the data elsewhere and send a reference"
        )
    return text


# What needs no closer look; a float may be no number.
_PLAIN: Final = frozenset({str, int, bool, type(None)})


def _check(root: Any, what: str, max_depth: int, max_nodes: int) -> None:
    """Refuse what is no JSON value, too deep or too much, without recursion."""
    if type(root) in _PLAIN:
        return
    flat = type(root) is dict and _PLAIN.issuperset(map(type, root.values()))
    if flat and len(root) < max_nodes and max_depth:
        return  # most payloads are of this kind
    level = [root]
    depth = nodes = 0
    while level:
        nodes += len(level)
        if nodes > max_nodes:
            raise errors.InvalidPayload(f"{what} has more than {max_nodes:,} nodes")
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is str or kind is int or kind is bool or value is None:
                continue
            if kind is float:
                if value != value or value in (_INF, -_INF):
                    raise errors.InvalidPayload(
                        f"{what} holds {value}, which is not JSON"
                    )
            elif kind is dict:
                below.extend(value.values())
                if depth >= max_depth:
                    raise _too_deep(what, max_depth)
            elif kind is list or kind is tuple:
                below.extend(value)
                if depth >= max_depth:
                    raise _too_deep(what, max_depth)
            else:
                raise errors.InvalidPayload(
                    f"{what} is not JSON: it holds a {kind.__name__}"
                )
        level, depth = below, depth + 1


def _too_deep(what: str, most: int) -> errors.InvalidPayload:
    return errors.InvalidPayload(f"{what} is nested deeper than {most} levels")


_INF: Final = float("inf")
_KEPT_DEPTH_MOST: Final = 900
_KEPT_MOST: Final = 100_000_000
_DEPTH_MOST: Final = 200  # orjson's own limit is 254, and a row adds a little


def decode(text: str | bytes) -> Any:
    """The value of JSON text; DecodeError keeps what could not be read."""
    try:
        return orjson.loads(text)
    except (ValueError, RecursionError) as exc:
        raise errors.DecodeError(f"not JSON: {exc}", raw=text) from None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; True is not 1, which Python would have it."""
    texts = []
    for value in (one, other):
        try:
            texts.append(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        except TypeError:
            return bool(one == other)
    return texts[0] == texts[1]


def decode_or_text(text: str) -> Any:
    """The value of JSON text, or the text itself where somebody wrote no JSON."""
    try:
        return orjson.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_row(text: str) -> dict[str, Any]:
    """A result row as a dict; empty where somebody else wrote something else."""
    row = decode_or_text(text)
    return row if isinstance(row, dict) else {}


def dump(value: Any) -> bytes:
    """Compact JSON of our own shapes."""
    return orjson.dumps(value)
