"""What failed, in the shapes that attempts and dead letters keep."""

from __future__ import annotations

import hashlib
import random
import re
import traceback
from collections import Counter
from typing import Any, Final

from . import errors, messages

_HERE: Final = __file__.rpartition("/")[0] + "/"
TRACEBACK_MOST: Final = 4_096  # bytes kept per attempt
MESSAGE_MOST: Final = 1_024  # characters
FINGERPRINT: Final = "[0-9a-f]{16}"  # what `fingerprint` gives; part of a key's name

# Parts of a message that differ between two equal failures.
_VARYING: Final = (
    (
        re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        "<id>",
    ),
    (re.compile(r"0x[0-9a-fA-F]+"), "<hex>"),
    # Quoted text; the apostrophe of "can't" opens none.
    (re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"\d+(?:\.\d+)?"), "<n>"),
    (re.compile(r"\s+"), " "),
)

POISON: Final[dict[str, Any]] = {
    "type": "Poison",
    "message": "every agent that ran this task was lost while it did",
    "reason": "poison",
}

LEASE_LOST: Final = "LeaseLost"  # what `reclaim.lua` writes of an attempt that was lost
LOST: Final[dict[str, Any]] = {
    "type": "Lost",
    "message": "somebody deleted its payload from Redis, so it cannot be run",
    "reason": "lost",
}


def describe(exc: BaseException) -> dict[str, Any]:
    """An exception as `{type, message, reason, frame, traceback}`.

    The type is the exception's `kind` where it has one, so that one class can tell its
    kinds apart. Of one that cannot be looked at there is what can be had.
    """
    facts = vars(exc).get("mesh_facts")
    if isinstance(facts, dict):
        return facts  # described in the process where it was raised
    final = isinstance(exc, errors.GiveUp)
    try:
        return _seen(exc, final)
    except Exception:  # its traceback too is made by code that it may have broken
        return told(type(exc).__name__, _text(exc), "", final)


def _seen(exc: BaseException, final: bool) -> dict[str, Any]:
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if not _ours(f.filename)] or list(frames)
    frame = f"{own[-1].filename.rsplit('/', 1)[-1]}:{own[-1].name}" if own else ""
    text = "" if final else _tail(_traceback(exc))
    return {
        "type": _printable(_kind(exc))[:128],
        "message": _printable(_text(exc))[:MESSAGE_MOST],
        "reason": "gave_up" if final else "failed",
        "frame": _printable(frame),
        "traceback": text,
    }


def plain(kind: str, message: str, reason: str) -> dict[str, Any]:
    """An error that no exception stands behind, such as a timeout."""
    return {
        "type": kind,
        "message": _printable(message)[:MESSAGE_MOST],
        "reason": reason,
    }


def told(kind: str, message: str, trace: str, final: bool) -> dict[str, Any]:
    """An error as an agent over HTTP tells it, cut to what attempts keep."""
    return {
        "type": _printable(kind)[:128],
        "message": _printable(message)[:MESSAGE_MOST],
        "reason": "gave_up" if final else "failed",
        "frame": "",
        "traceback": _tail(trace),
    }


def _kind(exc: BaseException) -> str:
    kind = getattr(type(exc), "kind", None) or vars(exc).get("kind")
    return kind if isinstance(kind, str) and kind else type(exc).__name__


def _text(exc: BaseException) -> str:
    try:
        return str(exc) or type(exc).__name__
    except Exception:  # a broken __str__ must not cost the task its letter
        return type(exc).__name__


def _traceback(exc: BaseException) -> str:
    """The traceback from the handler on: our own frames on top say nothing."""
    where = exc.__traceback__
    while where is not None and _ours(where.tb_frame.f_code.co_filename):
        where = where.tb_next
    return "".join(
        traceback.format_exception(type(exc), exc, where or exc.__traceback__)
    )


def _ours(filename: str) -> bool:
    return filename.startswith(_HERE)


def _printable(text: str) -> str:
    """Text that is valid UTF-8: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _tail(text: str) -> str:
    """The last 4 KB: the end of a traceback says what happened."""
    raw = text.encode("utf-8", "backslashreplace")
    return raw[-TRACEBACK_MOST:].decode("utf-8", "ignore")


def fingerprint(error: dict[str, Any]) -> str:
    """16 hex digits equal for equal failures: type, normalised message, top frame."""
    message = str(error.get("message", ""))
    for pattern, mark in _VARYING:
        message = pattern.sub(mark, message)
    text = f"{error.get('type', '')}\n{message[:256]}\n{error.get('frame', '')}"
    return hashlib.sha256(_printable(text).encode()).hexdigest()[:16]


def attempt_line(
    *,
    epoch: int,
    attempt: int,
    agent: str,
    fence: str,
    started_ms: int,
    finished_ms: int,
    error: dict[str, Any],
) -> bytes:
    """One attempt as the JSON line that `attempts` keeps."""
    return messages.dump(
        {
            "epoch": epoch,
            "attempt": attempt,
            "agent": agent,
            "fence": fence,
            "started_at": messages.iso(started_ms),
            "finished_at": messages.iso(finished_ms),
            "duration_ms": max(0, finished_ms - started_ms),
            "error": error,
        }
    )


def backoff_s(attempt: int, base_s: float, most_s: float) -> float:
    """Exponential with full jitter: a crowd that failed together comes back apart."""
    ceiling = min(most_s, base_s * 2 ** min(attempt - 1, 30))
    return random.uniform(0, ceiling)


def log2_bucket(ms: float) -> int:
    """Histogram bucket: 0 below 1 ms, then one per doubling, 31 at most."""
    return min(int(ms).bit_length(), 31) if ms > 0 else 0


def quantile(counts: Counter[int], share: float) -> int | None:
    """The upper edge (ms) of the log2 bucket that reaches the share; None of nothing.

    Right to a doubling.
    """
    left = share * counts.total()
    for bucket in sorted(counts):
        left -= counts[bucket]
        if counts[bucket] and left <= 0:
            return int(2**bucket)
    return None
