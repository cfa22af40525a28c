"""What senders want, checked and put into the words of the script.

An id is chosen before the first send, so that a repeat is the same task. An
Idempotency-Key *becomes* the id, and comes with a digest of its payload.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import uuid
from base64 import urlsafe_b64encode
from typing import Any, Final, NamedTuple

import orjson

from . import errors, keys, messages, records

AHEAD_MOST_S: Final = 10 * 366 * 86_400
# Of a time that somebody names. Ten years from now would be by our own clock.
_YEAR_2100_MS: Final = 4_102_444_800_000
KEY_MOST: Final = 255  # characters of an Idempotency-Key


# The system is asked for its randomness once: a call per id costs as much as all the
# rest of one. Of our own, since programs seed the shared one; anew in each process.
_random: Final = random.Random()
os.register_at_fork(after_in_child=_random.seed)


_CHANCE: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
_VERSION_7: Final = (0x7 << 76) | (0x2 << 62)


def new_id() -> str:
    """A UUID of version 7: sorts by time, chosen before the first send."""
    ms = time.time_ns() // 1_000_000
    text = f"{ms << 80 | _random.getrandbits(80) & _CHANCE | _VERSION_7:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def keyed_id(principal: str, topic: str, key: str) -> str:
    """The task id an Idempotency-Key stands for: a UUID of version 8.

    The same key of another principal, or in another topic, is another task.
    """
    ok = isinstance(key, str) and 0 < len(key) <= KEY_MOST and key.isprintable()
    if not ok:
        raise errors.InvalidOption(
            f"idempotency key {key!r:.80} is not 1 to {KEY_MOST} printable characters"
        )
    try:
        text = orjson.dumps([principal, topic, key])
    except TypeError:
        raise errors.InvalidOption("idempotency key or principal is no text") from None
    value = int.from_bytes(hashlib.sha256(text).digest()[:16], "big")
    value &= ~(0xF << 76) & ~(0x3 << 62)
    value |= (0x8 << 76) | (0x2 << 62)
    return str(uuid.UUID(int=value))


class Wanted(NamedTuple):
    """One task somebody wants accepted.

    `payload` is any JSON value, or `bytes` of compact JSON that the caller has checked
    already. Without `task_id` and `idempotency_key` it gets an id of its own. It starts
    at once, after `delay_s`, or at `run_at_ms` (server time, ms since 1970). `maxlen`
    bounds the backlog for this task. `principal` is whose idempotency key it is.
    `again_of` is the ended task that this one repeats.
    """

    payload: Any
    task_id: str | None = None
    idempotency_key: str | None = None
    principal: str = ""
    delay_s: float | None = None
    run_at_ms: int | None = None
    max_attempts: int | None = None
    timeout_s: float | None = None
    maxlen: int | None = None
    again_of: str | None = None


class Item(NamedTuple):
    """One task in the words of the script."""

    id: str
    due: str
    options: str
    json: bytes
    digest: str = ""
    maxlen: int | str = ""
    key: str = ""  # for sentences; the script knows it as the id


def item_of(topic: str, wanted: Wanted) -> Item:
    """A task as it is sent, or InvalidName, InvalidOption, InvalidPayload."""
    return item(topic, *wanted)


def item(
    topic: str,
    payload: Any,
    task_id: str | None = None,
    idempotency_key: str | None = None,
    principal: str = "",
    delay_s: float | None = None,
    run_at_ms: int | None = None,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    maxlen: int | None = None,
    again_of: str | None = None,
) -> Item:
    """`item_of` from the parts of a Wanted: who sends one task need not make that."""
    if isinstance(payload, bytes):
        text = messages.check_size(payload)
    else:
        text = messages.encode(payload)
    digest = ""
    if idempotency_key is not None:
        if task_id is not None:
            raise errors.InvalidOption("give a task_id or an idempotency_key, not both")
        task_id = keyed_id(principal, topic, idempotency_key)
        digest = _digest(text)
    elif task_id is None:
        task_id = new_id()
    else:
        task_id = keys.check_task_id(task_id)
    if run_at_ms is None:
        due = "" if delay_s is None else due_in(delay_s)
    elif delay_s is None:
        due = _due_at(run_at_ms)
    else:
        raise errors.InvalidOption("give delay_s or run_at, not both")
    options = ""
    if max_attempts is not None or timeout_s is not None:
        options = options_of(max_attempts, timeout_s)
    if again_of is not None:
        of = f"of={keys.check_task_id(again_of)}"
        options = f"{options},{of}" if options else of
    most = "" if maxlen is None else check_maxlen(maxlen)
    return Item(task_id, due, options, text, digest, most, idempotency_key or "")


def _digest(text: bytes) -> str:
    """12 characters that equal payloads share, however their keys are ordered."""
    plain = orjson.dumps(messages.decode(text), option=orjson.OPT_SORT_KEYS)
    return urlsafe_b64encode(hashlib.blake2b(plain, digest_size=9).digest()).decode()


def check_maxlen(maxlen: int) -> int:
    """A bound of the backlog, or InvalidOption."""
    whole = isinstance(maxlen, int) and not isinstance(maxlen, bool)
    if not (whole and maxlen >= 1):
        raise errors.InvalidOption(f"maxlen {maxlen!r} is not a positive number")
    return maxlen


def due_in(delay_s: float | None) -> str:
    """When a task is due, in the words of the script."""
    if delay_s is None:
        return ""
    ok = isinstance(delay_s, (int, float)) and not isinstance(delay_s, bool)
    if not ok or not 0 <= delay_s <= AHEAD_MOST_S:
        raise errors.InvalidOption(f"delay_s {delay_s!r} is not 0 s to 10 years")
    return f"+{int(delay_s * 1000)}" if delay_s else ""


def _due_at(run_at_ms: int) -> str:
    whole = isinstance(run_at_ms, int) and not isinstance(run_at_ms, bool)
    if not whole or not 0 <= run_at_ms < _YEAR_2100_MS:
        raise errors.InvalidOption(
            f"run_at is not a time from 1970 to 2099, but {run_at_ms!r} ms from 1970"
        )
    return str(run_at_ms)


def options_of(max_attempts: int | None, timeout_s: float | None) -> str:
    """A task's own options as its record keeps them."""
    parts = []
    if max_attempts is not None:
        ok = isinstance(max_attempts, int) and not isinstance(max_attempts, bool)
        if not ok or not records.may_try(max_attempts):
            raise errors.InvalidOption(
                f"max_attempts {max_attempts!r} is not 1 to {records.ATTEMPTS_MOST}"
            )
        parts.append(f"m={max_attempts}")
    if timeout_s is not None:
        ok = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool)
        if not ok or not records.may_take(timeout_s):
            raise errors.InvalidOption(
                f"timeout_s {timeout_s!r} is not 0.001 s to 7 days"
            )
        parts.append(f"t={float(timeout_s):.15g}")
    return ",".join(parts)
