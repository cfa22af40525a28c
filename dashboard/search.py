"""Tasks by what they carry: text in the payload or the error, or a field's value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from bus.messages import Task
from dashboard import formats

# `customer.id=17`, `lines.0.sku=A-1`: a path into the payload, and what is there.
_FIELD: Final = re.compile(r"([^\s=]+)=(.*)", re.DOTALL)


def fits(wanted: str) -> Callable[[Task], bool]:
    """Whether a task has this text in its payload or error, in any case of letters.

    `path=value` fits a payload that has this value at this path as well, whole.
    """
    text, field = wanted.lower(), _FIELD.fullmatch(wanted)

    def fit(task: Task) -> bool:
        if field and _at(task.payload, field[1].split(".")) == field[2].lower():
            return True
        return any(text in each.lower() for each in _texts(task))

    return fit


def _texts(task: Task) -> Iterator[str]:
    yield _text(task.payload)
    if task.error:
        yield formats.error_line(task.error)


def _at(payload: Any, path: list[str]) -> str | None:
    """What stands at a path of a payload, as text; None where there is nothing."""
    for name in path:
        if isinstance(payload, dict) and name in payload:
            payload = payload[name]
        elif (
            isinstance(payload, list) and name.isdecimal() and int(name) < len(payload)
        ):
            payload = payload[int(name)]
        else:
            return None
    return payload.lower() if isinstance(payload, str) else _text(payload).lower()


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
