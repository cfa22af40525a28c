"""JSON documents from outside: plain UTF-8, read strictly, or refused with a reason.

DRF's own parser takes the codec from the client (`charset=zlib` inflates the body), and
Python's reads NaN, keeps the last of two equal keys and rounds what it cannot hold.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from .problems import Problem

KEY_MOST: Final = 256  # characters of an object's key
INTEGER_MOST: Final = 2**53 - 1  # what every JSON reader holds exactly
_DIGITS_MOST: Final = 40  # beyond that nobody meant a number
_DEPTH_MOST: Final = 100  # of a body; what is in it has its own, lower limit


def document(
    raw: bytes, content_type: str, content_encoding: str = "", *, limit: int
) -> Any:
    """The value of a JSON body of up to `limit` bytes, or Problem.

    unsupported_media_type, body_too_large; unreadable for what is no JSON; and
    invalid_payload for JSON outside what travels safely (long keys, large integers).
    """
    check_type(content_type, content_encoding)
    if len(raw) > limit:
        raise too_large(limit)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _unreadable(f"the body is not UTF-8: byte {exc.start}") from None
    if text.startswith("\ufeff"):
        raise _unreadable("the body begins with a byte order mark; send it without")
    if not text.strip(" \t\r\n"):
        raise _unreadable("the body is empty")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as exc:
        raise _unreadable(f"the body is not JSON: {exc}") from None
    # Only escapes can bring what UTF-8 cannot hold, only brackets depth.
    if "\\u" in text or text.count("[") + text.count("{") > _DEPTH_MOST:
        _walk(value)
    return value


def check_type(content_type: str, content_encoding: str = "") -> None:
    """Problem unless the body says it is JSON in UTF-8, and not compressed."""
    kind, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if kind != "application/json":
        said = f"{content_type[:80]!r}" if content_type else "nothing"
        raise _unsupported(f"Content-Type says {said}; send application/json")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise _unsupported(f"charset {value[:40]!r} is not read; JSON is UTF-8")
    if content_encoding.strip().lower() not in ("", "identity"):
        raise compressed()


def compressed() -> Problem:
    """The problem of a body that does not come as it is."""
    return _unsupported("a compressed body is not read; send it as it is")


def too_large(limit: int) -> Problem:
    """The problem of a body with more than `limit` bytes."""
    return Problem("body_too_large", f"the body has more than {limit:,} bytes")


def _unsupported(detail: str) -> Problem:
    return Problem("unsupported_media_type", detail, {"Accept": "application/json"})


def _unreadable(detail: str) -> Problem:
    return Problem("unreadable", detail)


def _too_deep() -> Problem:
    return _unreadable(f"the body is nested deeper than {_DEPTH_MOST} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _unreadable(f"the body has the key {twice[:80]!r} twice in one object")
    for name in value:
        if len(name) > KEY_MOST:
            raise Problem(
                "invalid_payload", f"a key has more than {KEY_MOST} characters"
            )
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS_MOST:
        raise _unreadable(f"a number has {len(text)} digits")
    value = int(text)
    if abs(value) > INTEGER_MOST:
        raise Problem(
            "invalid_payload",
            f"integer {text} is beyond ±{INTEGER_MOST} and would be rounded by some "
            "readers; send it as text",
        )
    return value


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _unreadable(f"number {text[:40]} is too large")
    return value


def _constant(text: str) -> Any:
    raise _unreadable(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(
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
        raise _unreadable("a text holds the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unreadable("a text holds half a surrogate pair") from None
