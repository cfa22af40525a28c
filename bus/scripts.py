"""Runs the Lua scripts, one verb per file in `lua/`.

A script's header names its keys from `keys.py`; this module passes exactly those and
binds the names, so a key can be touched only where it is declared:

    -- KEYS: tasks_stream tasks counters      (a trailing `...` takes further keys)

What a verb names of `prelude.lua` is put in front of it. Every script is idempotent by
content, so a send without an answer may be repeated here, with the same arguments.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import redis
import redis.asyncio

from . import address, connection, errors, keys, patience, refusals
from .conf import conf, transition_log

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

    def part_for(self, body: str) -> str:
        """The functions that this text needs, in their order."""
        needed: set[str] = set()
        texts = [body]
        while texts:
            called = set(_CALL.findall(_COMMENT.sub("", texts.pop())))
            more = (called & self._functions.keys()) - needed
            needed |= more
            texts += [self._functions[name] for name in more]
        parts = [part for name, part in self._functions.items() if name in needed]
        return "".join(parts)


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
        return script, [*_keys_of(name, topic), *args]
    given = list(more)
    names = [
        given.pop(0) if word[0] == "<" else keys.named(word, topic)
        for word in script.names
    ]
    names += given
    return script, [len(names), *names, *args]


@functools.lru_cache(maxsize=8_192)
def _keys_of(name: str, topic: str) -> tuple[Any, ...]:
    """`numkeys, keys…` of a script that takes none beside its topic's."""
    names = SCRIPTS[name].names
    return (len(names), *(keys.named(word, topic) for word in names))


def run(
    name: str,
    topic: str,
    args: Sequence[Any] = (),
    more: Sequence[str] = (),
    *,
    client: Any = None,
    retry_s: float | None = None,
    known: bool = True,
    first: str = "",
    meanwhile: Callable[[], None] | None = None,
    failed: Exception | None = None,
) -> Any:
    """The script's reply; BusUnavailable or OutcomeUnknown after `retry_s` seconds.

    Where the topic may not be `known` yet, it is made known first: `ensure_topic`.
    `first` names a cheaper verb with the same arguments; where it says None, or gives
    no answer, the other one decides. `meanwhile` may be called while the server works,
    more than once, where no `client` is given; it raises nothing. `failed` is what a
    call of `once` with the same arguments came to, for this one to go on from.
    """
    script, tail = call(name, topic, args, more)
    pause, began = None, time.monotonic()
    while True:
        try:
            server: Any = connection.writer() if client is None else client
            if failed is not None:
                before, failed = failed, None
                raise before
            if not known and _known_topics.get((server.url, topic), 0.0) < began:
                ensure_topic(topic)
            if first:
                cheap, first = first, ""
                reply = _asked(server, *call(cheap, topic, args), meanwhile)
                if reply is not None:
                    return reply
            return _asked(server, script, tail, meanwhile)
        except (redis.RedisError, OSError) as exc:
            if refusals.is_misfit(exc):
                with refusals.guard():
                    kinds = [server.execute_command(*q) for q in _kinds(script, tail)]
                raise refusals.misfit(script.names, tail[1:], kinds) from exc
            if pause is None:
                pause = patience.Pause(
                    not script.reads, retry_s, brief=script.reads, began=began
                )
            time.sleep(pause.after(exc))


def once(name: str, topic: str, args: tuple[Any, ...]) -> Any:
    """A script's reply over the common connections, by the shortest way there is.

    None, and nothing was sent, where the topic or the script may not be known to the
    server; what goes wrong is raised as it comes. `run` is for both.
    """
    server = connection.writer()
    if _known_topics.get((server.url, topic), 0.0) < time.monotonic():
        return None
    try:
        return server.execute_command(
            "EVALSHA", SCRIPTS[name].sha, *_keys_of(name, topic), *args
        )
    except redis.exceptions.NoScriptError:
        return None


Call = tuple[str, str, Sequence[Any], Sequence[str]]  # name, topic, args, more


def _asked(
    server: Any,
    script: Script,
    tail: list[Any],
    meanwhile: Callable[[], None] | None = None,
) -> Any:
    beside = {} if meanwhile is None else {"meanwhile": meanwhile}
    try:
        return server.execute_command("EVALSHA", script.sha, *tail, **beside)
    except redis.exceptions.NoScriptError:
        return server.execute_command("EVAL", script.text, *tail)


async def arun(
    name: str,
    topic: str,
    args: Sequence[Any] = (),
    more: Sequence[str] = (),
    *,
    client: Any = None,
    retry_s: float | None = None,
    first: str = "",
) -> Any:
    """`run` for asyncio."""
    script, tail = call(name, topic, args, more)
    pause = patience.Pause(not script.reads, retry_s, brief=script.reads)
    while True:
        try:
            server: Any = connection.awriter() if client is None else client
            if first:
                cheap, first = first, ""
                reply = await _aasked(server, *call(cheap, topic, args))
                if reply is not None:
                    return reply
            return await _aasked(server, script, tail)
        except (redis.RedisError, OSError) as exc:
            if refusals.is_misfit(exc):
                with refusals.guard():
                    kinds = [
                        await server.execute_command(*q) for q in _kinds(script, tail)
                    ]
                raise refusals.misfit(script.names, tail[1:], kinds) from exc
            pause_s = pause.after(exc)
            if client is None and refusals.is_elsewhere(exc):
                # A wire and a line see to this themselves.
                pool = connection.awriter().connection_pool
                await pool.disconnect(inuse_connections=False)
            await asyncio.sleep(pause_s)


def _kinds(script: Script, tail: list[Any]) -> list[tuple[str, str]]:
    """What to ask to find out which key of a call is of a wrong type."""
    return [("TYPE", key) for key in tail[1 : 1 + len(script.names)]]


async def _aasked(server: Any, script: Script, tail: list[Any]) -> Any:
    try:
        return await server.execute_command("EVALSHA", script.sha, *tail)
    except redis.exceptions.NoScriptError:
        return await server.execute_command("EVAL", script.text, *tail)


# Until when a topic counts as known; somebody may delete it in the meantime.
_known_topics: dict[tuple[str, str], float] = {}
_KNOWN_FOR_S: Final = 5.0


def ensure_topic(topic: str, *, agent: bool = False) -> None:
    """Make the topic known before this process's first send; TooManyTopics if full.

    For an `agent` this goes through at maxmemory as well: it is there to free some.
    """
    known = (address.redis_url(), topic)
    if _known_topics.get(known, 0.0) < time.monotonic():
        _registered(topic, run("add_topic", "", _topic_args(topic, agent)))
        _known_topics[known] = time.monotonic() + _KNOWN_FOR_S


async def aensure_topic(topic: str, *, agent: bool = False) -> None:
    """`ensure_topic` for asyncio."""
    known = (address.redis_url(), topic)
    if _known_topics.get(known, 0.0) < time.monotonic():
        _registered(topic, await arun("add_topic", "", _topic_args(topic, agent)))
        _known_topics[known] = time.monotonic() + _KNOWN_FOR_S


def _topic_args(topic: str, agent: bool) -> list[Any]:
    return [topic, conf.TOPICS_MAX, "1" if agent else "0"]


def _registered(topic: str, reply: int) -> None:
    if not reply:
        raise errors.TooManyTopics(
            f"topic {topic!r} is new and the mesh already knows {conf.TOPICS_MAX:,}; "
            "delete topics or raise MESH_TOPICS_MAX"
        )


def forget_topics(topic: str | None = None) -> None:
    """Ask again for a topic that was deleted, or for every one, after a flush."""
    if topic is None:
        _known_topics.clear()
    else:
        _known_topics.pop((address.redis_url(), topic), None)
