"""The Lua scripts, one verb per file in `lua/`, as they are sent to the server.

A script's header names its keys from `keys.py`; this module passes exactly those and
binds the names, so a key can be touched only where it is declared:

    -- KEYS: tasks_stream tasks counters      (a trailing `...` takes further keys)

What a verb names of `prelude.lua` is put in front of it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from . import errors, keys
from .conf import transition_log

_READS: Final = "-- Reads only.\n"
_SHARED: Final = ("prelude", "leaving", "mending")
_PLAIN_CALL: Final = "local call = redis.call\n"
# Where a task is, by these; the rest follows from them.
_WATCHED: Final = frozenset({"tasks", "delayed", "done", "dead_index", "tasks_stream"})
_HEADER: Final = re.compile(r"^-- KEYS:(.*)$", re.MULTILINE)
_FUNCTION: Final = re.compile(r"^(?:--.*\n)*local function (\w+)\(", re.MULTILINE)
_COMMENT: Final = re.compile(r"--.*")
_CALL: Final = re.compile(r"(\w+)\(")


@dataclass(frozen=True, slots=True)
class Script:
    """One verb: its text with the prelude, its digest and the names of its keys."""

    name: str
    text: str
    sha: str
    names: tuple[str, ...]
    more: bool
    reads: bool  # it writes nothing, so its outcome is never in doubt


class _Prelude:
    """The shared functions; a script pays for each one it carries, call by call."""

    def __init__(self, text: str) -> None:
        starts = list(_FUNCTION.finditer(text))
        ends = [start.start() for start in starts[1:]] + [len(text)]
        self.head = text[: starts[0].start()]
        self._functions = {
            start.group(1): text[start.start() : end]
            for start, end in zip(starts, ends, strict=True)
        }
        # Every process looks at all verbs as it starts, but once at each function.
        self._needs = {name: self._called(x) for name, x in self._functions.items()}

    def part_for(self, body: str) -> str:
        """The functions that this text needs, in their order."""
        needed: set[str] = set()
        more = self._called(body)
        while more:
            needed |= more
            more = set().union(*(self._needs[name] for name in more)) - needed
        parts = [part for name, part in self._functions.items() if name in needed]
        return "".join(parts)

    def _called(self, text: str) -> set[str]:
        return self._functions.keys() & set(_CALL.findall(_COMMENT.sub("", text)))


def load(*, logged: bool) -> dict[str, Script]:
    """All verbs; `logged` has those that move tasks write that down, for tests."""
    folder = resources.files(__package__) / "lua"
    shared = [(folder / f"{name}.lua").read_text(encoding="utf-8") for name in _SHARED]
    prelude = _Prelude("\n".join(shared))
    recorder = (folder / "log.lua").read_text(encoding="utf-8") if logged else ""
    scripts = {}
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        name, _, suffix = file.name.partition(".")
        if suffix != "lua" or name in (*_SHARED, "log"):
            continue
        body = file.read_text(encoding="utf-8")
        header = _HEADER.search(body)
        if header is None:
            raise errors.BusError(f"lua/{file.name} does not declare its KEYS")
        words = header.group(1).split()
        more = words[-1:] == ["..."]
        names = tuple(words[:-1] if more else words)
        if recorder and _WATCHED & set(names) and _READS not in body:
            names += ("log",)
        unknown = [word for word in names if word not in keys.NAMES and word[0] != "<"]
        if unknown:
            raise errors.BusError(f"lua/{file.name} names unknown keys {unknown}")
        bound = ", ".join(word.strip("<>") for word in names)
        slots = ", ".join(f"KEYS[{i + 1}]" for i in range(len(names)))
        head = prelude.head
        if "log" in names:
            head = head.replace(_PLAIN_CALL, _recording(recorder, name, names))
        if more:
            head = f"local more = {{ unpack(KEYS, {len(names) + 1}) }}\n{head}"
        text = f"local {bound} = {slots}\n{head}{prelude.part_for(body)}\n{body}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        scripts[name] = Script(name, text, sha, names, more, _READS in body)
    return scripts


def _recording(text: str, verb: str, names: tuple[str, ...]) -> str:
    """What stands in for `redis.call` in one verb whose transitions are logged."""
    watched = ", ".join(f"[{name}] = '{name}'" for name in names if name in _WATCHED)
    return text.replace("@verb", verb).replace("@watched", watched)


SCRIPTS: Final = load(logged=transition_log())


def call(
    name: str, topic: str, args: Sequence[Any], more: Sequence[str] = ()
) -> tuple[Script, list[Any]]:
    """A script with its `numkeys, keys…, args…`; names in <> come from `more`."""
    script = SCRIPTS[name]
    if not more:
        return script, [*keys_of(name, topic), *args]
    given = list(more)
    names = [
        given.pop(0) if word[0] == "<" else keys.named(word, topic)
        for word in script.names
    ]
    names += given
    return script, [len(names), *names, *args]


def command(
    name: str, topic: str, args: Sequence[Any] = (), more: Sequence[str] = ()
) -> tuple[Any, ...]:
    """What is sent to run a script that the server has been given before."""
    script, tail = call(name, topic, args, more)
    return ("EVALSHA", script.sha, *tail)


@functools.lru_cache(maxsize=8_192)
def keys_of(name: str, topic: str) -> tuple[Any, ...]:
    """`numkeys, keys…` of a script that takes none beside its topic's."""
    names = SCRIPTS[name].names
    return (len(names), *(keys.named(word, topic) for word in names))
