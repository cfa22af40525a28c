"""What somebody typed into a field of a form."""

from __future__ import annotations

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
