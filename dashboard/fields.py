"""What somebody typed into a field of a form."""

from __future__ import annotations

from datetime import UTC, datetime

from bus import errors


def number(name: str, text: str) -> float | None:
    """The number in a field, None where it is empty; InvalidOption with its name."""
    text = text.strip()
    if not text:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise errors.InvalidOption(f"{name}: {text!r:.40} is not a number") from None


def utc_ms(text: str | None) -> int | None:
    """The ms of a time; as browsers send it, without an offset, it is taken for UTC."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return round(when.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise errors.InvalidOption(f"{text!r:.40} is not a time") from None
