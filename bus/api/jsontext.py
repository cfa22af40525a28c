"""Bodies of requests: JSON in plain UTF-8, read exactly, or refused with a reason.

DRF's own parser takes the codec from the client (`charset=zlib` inflates the body).
"""

from __future__ import annotations

from typing import Any

from bus import errors, exact

from .problems import Problem


def document(
    raw: bytes,
    content_type: str,
    content_encoding: str = "",
    *,
    limit: int,
    each: str = "",
) -> Any:
    """The value of a JSON body of up to `limit` bytes, or Problem.

    unsupported_media_type, body_too_large; unreadable for what is no JSON; and
    invalid_payload for JSON outside what travels safely (long keys, large integers).
    Where the member `each` lists what is right or wrong by itself, InvalidPayload
    stands there in the place of what is outside.
    """
    check_type(content_type, content_encoding)
    if len(raw) > limit:
        raise too_large(limit)
    try:
        return exact.read(raw, "the body")
    except errors.DecodeError as exc:
        raise Problem("unreadable", str(exc)) from None
    except errors.InvalidPayload as exc:
        if not each:
            raise Problem(exc.code, str(exc)) from None
    value = exact.read(raw, "the body", bounded=False)
    rows = value.get(each) if isinstance(value, dict) else None
    if isinstance(rows, list):
        value[each] = [*map(_apart, rows)]
    return value


def _apart(row: Any) -> Any:
    try:
        exact.check(row, "the task")
    except errors.InvalidPayload as exc:
        return exc
    return row


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
