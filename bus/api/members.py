"""The members of JSON objects, each of its type; what is wrong is told by pointer.

A type gives back the value, or ... for a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from .problems import Problem


def anything(value: Any) -> Any:
    """Any JSON value."""
    return value


def text(value: Any) -> Any:
    """A text."""
    return value if isinstance(value, str) else ...


def number(value: Any) -> Any:
    """A number; true is none."""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if numeric else ...


def whole(value: Any) -> Any:
    """A whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON knows one kind of number: 2.0 is 2
    return value if isinstance(value, int) and not isinstance(value, bool) else ...


def flag(value: Any) -> Any:
    """True or false."""
    return value if isinstance(value, bool) else ...


def whole_or_null(value: Any) -> Any:
    """A whole number, or null."""
    return None if value is None else whole(value)


def number_or_null(value: Any) -> Any:
    """A number, or null."""
    return None if value is None else number(value)


def listed(value: Any) -> Any:
    """A list."""
    return value if isinstance(value, list) else ...


def texts(value: Any) -> Any:
    """A list of texts, as a tuple."""
    fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return tuple(value) if fits else ...


def table(value: Any) -> Any:
    """An object."""
    return value if isinstance(value, dict) else ...


def time(value: Any) -> Any:
    """A time, as `parsed_time` reads it."""
    when = parsed_time(value) if isinstance(value, str) else None
    return ... if when is None else when


def parsed_time(text: str) -> datetime | None:
    """A time in UTC from ISO 8601 text with an offset; None if it is none."""
    try:
        when = datetime.fromisoformat(text)
        # By its own clock a time may lie in the calendar, and in UTC outside of it.
        return when.astimezone(UTC) if when.tzinfo else None
    except (ValueError, OverflowError):
        return None


NO_TIME: Final = "is not a time with an offset, such as 2026-01-31T12:00:00Z"
Kind = Callable[[Any], Any]
_WHAT: Final[dict[Kind, str]] = {
    text: "is not a text",
    number: "is not a number",
    whole: "is not a whole number",
    flag: "is not true or false",
    whole_or_null: "is not a whole number, or null",
    number_or_null: "is not a number, or null",
    listed: "is not a list",
    texts: "is not a list of texts",
    table: "is not an object",
    time: NO_TIME,
}


def members(
    value: Any,
    shape: Mapping[str, Kind],
    required: tuple[str, ...] = (),
    at: str = "",
) -> dict[str, Any]:
    """The members of an object, each of its type; all that is wrong at once.

    `at` is the pointer of the object, where it is not the body.
    """
    if not isinstance(value, dict):
        raise invalid([(at, "is not a JSON object")])
    wrong = [(f"{at}/{name}", "is missing") for name in required if name not in value]
    taken = {}
    for name, member in value.items():
        kind = shape.get(name)
        if kind is None:
            wrong.append((f"{at}/{_escaped(name)}", unknown(shape)))
        elif (read := kind(member)) is ...:
            wrong.append((f"{at}/{name}", _WHAT[kind]))
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
