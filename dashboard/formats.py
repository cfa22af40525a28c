"""Values as text for eyes: durations, numbers, bytes, JSON, errors."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from django.utils.html import format_html
from django.utils.safestring import SafeString

from bus import words

NOTHING: Final = "–"
_LARGEST: Final = 1e18
# A page shows this much of a payload; more would only make the browser slow.
_PRETTY_MOST: Final = 64 * 1024
_NO_LABELS: Final[Mapping[str, str]] = {}
_EXAMPLE: Final = {"hello": "world"}
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


# Characters that nobody sees, but that turn round, cut or hide the text beside them, or
# steer the terminal it is copied to. Joiners stay: words and emoji need them.
_UNSEEN: Final = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u200b\\u200e\\u200f"
    "\\u2028-\\u202e\\u2060\\u2066-\\u2069\\ufeff]"
)

# What a form sends again. What others wrote cannot look so: < and > in it are escaped.
_FIELD: Final = re.compile(
    r"(<textarea\b.*?</textarea>|<(?:input|option|button)\b[^>]*>)", re.DOTALL
)


def seen(html: str) -> str:
    """HTML with such characters as `\\u202e`, but for what is in the fields of forms: a
    search would look for something else the next time."""
    if not _UNSEEN.search(html):
        return html
    parts = _FIELD.split(html)
    parts[::2] = map(shown_json, parts[::2])
    return "".join(parts)


def shown_json(text: str) -> str:
    """JSON with such characters as `\\u202e`, which it reads as the same."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_count(value: object) -> TypeGuard[int | float]:
    """Whether it is a number that says how many; agents may tell anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -_LARGEST < value < _LARGEST


def duration(seconds: object) -> str:
    """Seconds as `850 ms`, else as sentences say them: `3.2 s`, `4 min 10 s`."""
    if not _is_count(seconds):
        return NOTHING
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return words.span(seconds)


def ms(value: object) -> str:
    """Milliseconds as a duration."""
    if not _is_count(value):
        return NOTHING
    return duration(value / 1000)


def number(value: object) -> str:
    """A count with its thousands set apart; what is unknown is no zero."""
    if not _is_count(value):
        return NOTHING
    return f"{value:,.0f}"


def compact(value: object) -> SafeString | str:
    """A count for a tile: `1.2 k`, `3.4 M`; whole in its title."""
    if not _is_count(value):
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            divisor = 1e3 if unit == "k" else size
            text = f"{value / divisor:.1f} {unit}"
            return format_html('<span title="{}">{}</span>', number(value), text)
    return number(value)


def rate(value: object) -> str:
    """Things per minute, with a decimal where there are few."""
    if not _is_count(value):
        return NOTHING
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def percent(value: object) -> str:
    """A share of one as `10 %`, `0.5 %`."""
    if not _is_count(value):
        return NOTHING
    return f"{value * 100:.3g} %"


def size(value: object) -> str:
    """Bytes in binary units."""
    if not _is_count(value):
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return NOTHING


def short(task_id: object) -> str:
    """An id shortened in its middle: ids of one second share their beginning."""
    text = str(task_id or "")
    return text if len(text) <= 18 else f"{text[:8]}…{text[-6:]}"


def preview(value: Any, most: int = 100) -> str:
    """JSON in one line, cut after `most` characters."""
    text = value if isinstance(value, str) else _begun(value, most * 4)
    line = " ".join(text[: most * 4].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def pretty(value: Any) -> str:
    """JSON over several lines, cut where a browser would suffer."""
    text = _dumped(value, 2)
    if len(text) <= _PRETTY_MOST:
        return text
    left = len(text) - _PRETTY_MOST
    return f"{text[:_PRETTY_MOST]}\n… {left:,} more characters"


def _begun(value: Any, most: int) -> str:
    """How its JSON begins; all of what is 1 MiB would take 50 ms."""
    parts: list[str] = []
    have = 0
    try:
        for part in _ENCODER.iterencode(value):
            parts.append(part)
            have += len(part)
            if have >= most:
                break
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return "".join(parts)


def _dumped(value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def said(exc: Exception, labels: Mapping[str, str] = _NO_LABELS) -> str:
    """What an error says, as a sentence, with fields called as on the page."""
    text = str(exc)
    for name, label in labels.items():
        text = text.replace(name, label)
    return f"{text[:1].upper()}{text[1:]}."


def error_line(error: Any) -> str:
    """An error as `Type: message`, whatever shape somebody gave it."""
    if not isinstance(error, dict):
        return preview(error, 300) if error else NOTHING
    kind, message = error.get("type"), error.get("message")
    return ": ".join(str(part) for part in (kind, message) if part) or NOTHING


def change(entry: Any) -> str:
    """What an entry of the audit trail changed, member by member, or its facts."""
    before, after = entry["before"], entry["after"]
    if before is not None and after is not None:
        if not (isinstance(before, dict) and isinstance(after, dict)):
            return f"{_dumped(before, None)} → {_dumped(after, None)}"
        steps = [
            f"{name} {_word(before.get(name))} → {_word(value)}"
            for name, value in after.items()
            if before.get(name) != value
        ]
        return ", ".join(steps) or "no change"
    facts = [f"{name} {_word(value)}" for name, value in entry["detail"].items()]
    return ", ".join(facts) or "details"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else _dumped(value, None)


def curl(origin: str, topic: str, payload: Any = _EXAMPLE) -> str:
    """The call that sends this payload, to be pasted into a shell."""
    body = _dumped({"topic": topic, "task": payload}, None)
    return (
        f"curl {origin}/api/v1/mesh/enqueue \\\n"
        '  -H "Authorization: Bearer $MESH_TOKEN" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )
