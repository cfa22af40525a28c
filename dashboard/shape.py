"""What payloads of a topic look like, learnt from some of its tasks.

Topics have no schema. Most of their payloads have one shape all the same, and who types
one by hand is told where it differs before it is sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from dashboard import formats

_DEPTH_MOST: Final = 4
_FIELDS_MOST: Final = 100  # of one payload
_SHOWN_MOST: Final = 20
_TOLD_MOST: Final = 5  # differences
ENOUGH: Final = 5  # payloads, before any of them is a rule
_OBJECT: Final = "object"


@dataclass(slots=True)
class Field:
    """One path: how many payloads have it, as what, and what one of them holds."""

    path: str
    count: int = 0
    kinds: set[str] = field(default_factory=set)
    example: str = ""

    @property
    def kind(self) -> str:
        return " or ".join(sorted(self.kinds))


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of `of` payloads, and of what kind these are as a whole."""

    of: int
    kinds: set[str]
    fields: dict[str, Field]

    @property
    def told(self) -> list[Field]:
        """The fields that most of them have, for a table."""
        ranked = sorted(self.fields.values(), key=lambda each: -each.count)
        return ranked[:_SHOWN_MOST]

    def differences(self, payload: Any) -> list[str]:
        """How a payload differs from all of these, in sentences; empty if it does not,
        or if these are too few to tell."""
        if self.of < ENOUGH:
            return []
        kind = _kind(payload)
        if kind not in self.kinds:
            return [f"It is {_a(kind)}; here payloads are {_some(self.kinds)}."]
        return [*self._differing(payload)][:_TOLD_MOST]

    def _differing(self, payload: Any) -> Iterator[str]:
        own = dict(_paths(payload))
        missing = {
            path
            for path, each in self.fields.items()
            if each.count == self.of and path not in own
        }
        strange = own.keys() - self.fields.keys()
        # Of an object that is missing, or in none of the others, only that is told.
        for path in sorted(missing):
            if _above(path) not in missing:
                near = _like(path, strange)
                yield f"“{path}” is missing: all others have it.{near}"
        for path in sorted(strange):
            if _above(path) not in strange:
                near = "" if missing else _like(path, self.fields.keys() - own.keys())
                yield f"“{path}” is in none of the others.{near}"
        for path in sorted(own.keys() - strange):
            kind, kinds = own[path][0], self.fields[path].kinds
            if kind not in kinds:
                yield f"“{path}” is {_a(kind)}; elsewhere it is {_some(kinds)}."


def _above(path: str) -> str:
    return path.rpartition(".")[0]


def learn(payloads: Sequence[Any]) -> Shape:
    """The shape of these payloads."""
    found: dict[str, Field] = {}
    for payload in payloads:
        for path, (kind, value) in _paths(payload):
            each = found.setdefault(path, Field(path))
            each.count += 1
            each.kinds.add(kind)
            if kind != _OBJECT and not each.example:
                each.example = formats.preview(value, 40)
    return Shape(len(payloads), set(map(_kind, payloads)), found)


def _paths(payload: Any) -> Iterator[tuple[str, tuple[str, Any]]]:
    return islice(_walk(payload, "", _DEPTH_MOST), _FIELDS_MOST)


def _walk(
    payload: Any, above: str, depth: int
) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Paths into objects, an object before its fields; lists are not gone into."""
    if not isinstance(payload, dict) or not depth:
        return
    for name, value in payload.items():
        path = f"{above}{name}"
        yield path, (_kind(value), value)
        yield from _walk(value, f"{path}.", depth - 1)


def _kind(value: Any) -> str:
    """What JSON calls it, in a word."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes or no"
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return "something else"


_KINDS: Final[dict[str, Any]] = {
    "text": str,
    "number": (int, float),
    "list": list,
    _OBJECT: dict,
}


def _a(kind: str) -> str:
    return {"object": "an object", "list": "a list", "number": "a number"}.get(
        kind, kind
    )


def _some(kinds: Iterable[str]) -> str:
    return " or ".join(sorted(map(_a, kinds)))


def _like(path: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(path, [*others], 1)
    return f" Is it “{near[0]}”?" if near else ""
