"""JSON that others wrote, read exactly or refused with a reason.

Python's reader takes NaN, keeps the last of two equal keys and rounds what it cannot
hold; orjson makes a float of an integer beyond 64 bits.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from . import errors

KEY_MOST: Final = 256  # characters of an object's key
INTEGER_MOST: Final = 2**53 - 1  # what every JSON reader holds exactly
_DIGITS_MOST: Final = 40  # beyond that nobody meant a number
_DEPTH_MOST: Final = 100  # of a text; what a payload may have is less
_ROUNDED_FROM: Final = 19  # digits: an integer beyond 64 bits has no fewer
_ALL_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_RUN: Final = b"0" * _ROUNDED_FROM
# Texts, to be passed over, and numbers: whole where nothing follows.
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(-?[0-9]+)([.eE][-+.eE0-9]*)?')
# Values that no integer becomes when it is rounded.
_NO_FLOAT: Final = frozenset({str, int, bool, type(None)})


def read(text: str | bytes, what: str, *, bounded: bool = True) -> Any:
    """The value of JSON text that a client or a person wrote; `what` begins sentences.

    DecodeError for what is no JSON or has two meanings. InvalidPayload for JSON that
    does not travel safely (long keys, large integers), unless `bounded` is false.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as exc:
            said = f"{what} is not UTF-8: byte {exc.start}"
            raise errors.DecodeError(said, raw=text) from None
    try:
        return _read(text, _BOUNDED if bounded else _UNBOUNDED)
    except (errors.DecodeError, errors.InvalidPayload) as exc:
        exc.args = (f"{what} {exc}",)
        raise


def check(value: Any, what: str) -> None:
    """InvalidPayload for a value that was read unbounded and has what is refused."""
    level = [value]
    try:
        while level:
            below: list[Any] = []
            for each in level:
                if isinstance(each, dict):
                    _check_keys(each)
                    below.extend(each.values())
                elif isinstance(each, list):
                    below.extend(each)
                elif type(each) is int:
                    _check_integer(each)
            level = below
    except errors.InvalidPayload as exc:
        exc.args = (f"{what} {exc}",)
        raise


def is_rounded(text: str, value: Any) -> bool:
    """Whether orjson's `value` of this text has an integer as a float, and so another
    number; cheap for texts without long numbers."""
    if len(text) < _ROUNDED_FROM or type(value) in _NO_FLOAT:
        return False
    if type(value) is dict and _NO_FLOAT.issuperset(map(type, value.values())):
        return False  # most payloads are of this kind
    if _RUN not in text.encode().translate(_ALL_ZERO):
        return False
    # A regular expression over every text would cost several times as much.
    whole = (token[1] for token in _TOKEN.finditer(text) if not token[2])
    return any(number and not _fits(number) for number in whole)


def _fits(number: str) -> bool:
    return len(number) <= _DIGITS_MOST and -(2**63) <= int(number) < 2**64


def _read(text: str, decoder: json.JSONDecoder) -> Any:
    if text.startswith("\ufeff"):
        raise _unreadable("begins with a byte order mark; send it without")
    if not text.strip(" \t\r\n"):
        raise _unreadable("is empty")
    try:
        value = decoder.decode(text)
    except errors.InvalidPayload:  # a ValueError as well
        raise
    except RecursionError:
        raise _too_deep() from None
    except ValueError as exc:
        raise _unreadable(f"is not JSON: {exc}") from None
    # Only escapes can bring what UTF-8 cannot hold, only brackets depth.
    if "\\u" in text or text.count("[") + text.count("{") > _DEPTH_MOST:
        _walk(value)
    return value


def _unreadable(said: str) -> errors.DecodeError:
    return errors.DecodeError(said)


def _too_deep() -> errors.DecodeError:
    return _unreadable(f"is nested deeper than {_DEPTH_MOST} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _unreadable(f"has the key {name[:80]!r} twice in one object")
            seen.add(name)
    return value


def _bounded_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = _object(pairs)
    _check_keys(value)
    return value


def _check_keys(value: dict[str, Any]) -> None:
    for name in value:
        if len(name) > KEY_MOST:
            raise errors.InvalidPayload(f"has a key of more than {KEY_MOST} characters")


def _integer(text: str) -> int:
    if len(text) > _DIGITS_MOST:
        raise _unreadable(f"has a number of {len(text)} digits")
    return int(text)


def _bounded_integer(text: str) -> int:
    value = _integer(text)
    _check_integer(value)
    return value


def _check_integer(value: int) -> None:
    if abs(value) > INTEGER_MOST:
        raise errors.InvalidPayload(
            f"has the integer {value}, beyond ±(2^53 - 1): some readers would round "
            "it; send it as text"
        )


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _unreadable(f"has the number {text[:40]}, which is too large")
    return value


def _constant(text: str) -> Any:
    raise _unreadable(f"is not JSON: {text} is none")


_BOUNDED: Final = json.JSONDecoder(
    object_pairs_hook=_bounded_object,
    parse_int=_bounded_integer,
    parse_float=_real,
    parse_constant=_constant,
)
_UNBOUNDED: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_real,
    parse_constant=_constant,
)


def _walk(root: Any) -> None:
    """Refuse depth, half characters and NUL anywhere, without recursion."""
    level, depth = [root], 0
    while level:
        if depth > _DEPTH_MOST:
            raise _too_deep()
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _unreadable("holds the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unreadable("holds half a surrogate pair") from None
