"""Tasks by what they carry, text or a field's value, and by when they were enqueued."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from bus import messages
from bus.messages import Task
from dashboard import fields, formats

MOST: Final = 200  # characters of a search
_TIMES: Final = ("since", "until")
_NAME: Final = re.compile(r"[^\s=.]+")
# `customer.id=17`, `lines.0.sku=A-1`: a path into the payload, and what is there.
_FIELD: Final = re.compile(r"([^\s=]+)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sought:
    """Which tasks somebody means: what they carry, when they were enqueued (UTC, as a
    browser sends it); empty texts for whatever does not matter."""

    q: str = ""
    since: str = ""
    until: str = ""

    @property
    def given(self) -> dict[str, str]:
        """What matters, by its name in the address."""
        named = {"q": self.q, "since": self.since, "until": self.until}
        return {name: text for name, text in named.items() if text}

    @property
    def fits(self) -> Callable[[Task], bool]:
        """Whether a task is one of them."""
        carries = fits(self.q) if self.q else None
        since, until = fields.utc_ms(self.since), fields.utc_ms(self.until)

        def fit(task: Task) -> bool:
            if self.since or self.until:
                at = messages.iso_ms(task.enqueued_at)
                if at is None or (since is not None and at < since):
                    return False
                if until is not None and at >= until:
                    return False
            return carries is None or carries(task)

        return fit


def of(form: Mapping[str, str]) -> Sought:
    """What an address or a form asks for; InvalidOption for a time that is none."""
    q, since, until = (form.get(name, "").strip() for name in ("q", *_TIMES))
    for text in (since, until):
        fields.utc_ms(text)
    return Sought(q[:MOST], since, until)


def fits(wanted: str) -> Callable[[Task], bool]:
    """Whether a task has this text in its payload or error, in any case of letters.

    `path=value` fits a payload that has this value at this path as well, whole.
    """
    carry = among(wanted)

    def fit(task: Task) -> bool:
        said = [formats.error_line(task.error)] if task.error else []
        values = (task.payload,)
        return carry(values, lambda: lowered(values, said))

    return fit


def among(wanted: str) -> Callable[[Iterable[Any], Callable[[], Iterable[str]]], bool]:
    """Whether JSON values, or the texts (`lowered`) that are asked for where they are
    needed, have this text in them, in any case of letters.

    `path=value` fits what has this value at this path as well, whole.
    """
    text, field = wanted.lower(), _FIELD.fullmatch(wanted)

    def carry(values: Iterable[Any], texts: Callable[[], Iterable[str]]) -> bool:
        if field:
            path, sought = field[1].split("."), field[2].lower()
            if any(_at(value, path) == sought for value in values):
                return True
        return any(text in each for each in texts())

    return carry


def lowered(values: Iterable[Any], texts: Iterable[str]) -> list[str]:
    """What a text is sought in: JSON values as text, and texts, in lower case."""
    return [each.lower() for each in (*map(_text, values), *texts)]


def suggestions(tasks: Iterable[Task]) -> list[str]:
    """What could be searched among tasks like these: their fields, then with values.

    `customer.id=`, `customer.id=17`; the most frequent first, some of each.
    """
    names: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for task in tasks:
        for path, value in _leaves(task.payload, _DEPTH_MOST):
            names[f"{path}="] += 1
            if len(text := _shown(value)) <= _VALUE_MOST:
                values[f"{path}={text}"] += 1
    found = [*names.most_common(_SUGGESTED), *values.most_common(_SUGGESTED)]
    return [each for each, _ in found]


def values(payload: Any) -> list[str]:
    """What a payload could be found by, `customer.id=17`: its first short values."""
    found = (f"{path}={_shown(value)}" for path, value in _leaves(payload, _DEPTH_MOST))
    return [*islice((each for each in found if len(each) <= _VALUE_MOST), _VALUES_MOST)]


_VALUES_MOST: Final = 8
_DEPTH_MOST: Final = 4
_FIELDS_MOST: Final = 20  # of one payload
_VALUE_MOST: Final = 40  # characters
_SUGGESTED: Final = 40


def _leaves(payload: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Paths to what is no object, with what is there; objects in lists are left out."""
    if not isinstance(payload, dict):
        return
    for name, value in islice(payload.items(), _FIELDS_MOST):
        if not name or not _NAME.fullmatch(name):
            continue  # a path could not say it
        if not isinstance(value, (dict, list)):
            yield name, value
        elif depth > 1:
            for path, leaf in _leaves(value, depth - 1):
                yield f"{name}.{path}", leaf


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
    return _shown(payload).lower()


def _shown(value: Any) -> str:
    """A value as it is typed behind a field's name."""
    return value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
