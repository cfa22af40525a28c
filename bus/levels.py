"""Levels of durability: what an acknowledgement means, and which ones a server gives.

memory        the server has it in memory
aof           it is in the append-only file, which is synced every second
fsync         that file was synced to the disk before the server replied
replicated:k  k replicas have it (WAIT)

The first two are what a server is set to do; the others are made sure of before a task
is acknowledged. A level that this server cannot give is refused, never lowered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from dataclasses import dataclass
from typing import Any, Final

import redis

from . import address, connection, errors, patience
from .conf import conf

AOF: Final = "aof"
MEMORY: Final = "memory"
FSYNC: Final = "fsync"
REPLICATED: Final = "replicated"
COPIES_MOST: Final = 9
_FOR_S: Final = 5.0  # a server changes this only when an operator does
_SECTIONS: Final = ("persistence", "replication")
# WAITAOF would be the command for this, yet Valkey 8 and Redis 7.4 answer it while the
# sync is still to come (redis#13793). With `appendfsync always` the reply to the script
# comes after the sync; so ask whether that is what the server does.
_POLICY: Final = ("CONFIG", "GET", "appendonly", "appendfsync")


@dataclass(frozen=True, slots=True)
class Level:
    """One level; `copies` is the k of `replicated:k`."""

    kind: str
    copies: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.copies}" if self.copies else self.kind

    @property
    def waits(self) -> bool:
        """Whether it is to be made sure of before a task is acknowledged."""
        return self.kind in (FSYNC, REPLICATED)

    def command(self, timeout_s: float) -> tuple[Any, ...]:
        """What to ask on the connection that wrote, once it has written."""
        timeout_ms = max(1, int(timeout_s * 1000))  # 0 would wait for ever
        if self.kind == FSYNC:
            return _POLICY
        return ("WAIT", self.copies, timeout_ms)

    def reached(self, reply: Any) -> bool:
        """Whether the server's answer to `command` says so."""
        if self.kind == FSYNC:
            return _policy(reply) == {"appendonly": "yes", "appendfsync": "always"}
        return bool(reply >= self.copies)


BY_ITSELF: Final = Level("")  # nobody asked for one: `level()` says what there is


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is set to do with what it has acknowledged."""

    aof: bool
    appendfsync: str  # empty where we may not ask
    replicas: int

    @property
    def level(self) -> Level:
        """What it gives without anybody waiting."""
        if not self.aof:
            return Level(MEMORY)
        return Level(FSYNC if self.appendfsync == "always" else AOF)

    def lacks(self, wanted: Level) -> str:
        """Why it cannot give this level; empty if it can."""
        if wanted.kind == REPLICATED:
            if self.replicas >= wanted.copies:
                return ""
            have = {0: "no replica", 1: "1 replica"}
            return f"it has {have.get(self.replicas, f'{self.replicas} replicas')}"
        if wanted.kind in (AOF, FSYNC) and not self.aof:
            return "it keeps no append-only file (CONFIG SET appendonly yes)"
        if wanted.kind == FSYNC and not self.appendfsync:
            return "its user may not see whether it syncs first (ACL: +config|get)"
        if wanted.kind == FSYNC and self.appendfsync != "always":
            return "it replies before it syncs its file (CONFIG SET appendfsync always)"
        return ""


def parse(text: str) -> Level:
    """`memory`, `aof`, `fsync` or `replicated:k` as a Level, or InvalidOption."""
    found = _LEVEL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise errors.InvalidOption(
            f"durability {text!r:.80} is not memory, aof, fsync or replicated:k with "
            f"k of 1 to {COPIES_MOST}"
        )
    return _made(found[1] or text, int(found[2] or 0))


_LEVEL: Final = re.compile(
    rf"(?:{MEMORY}|{AOF}|{FSYNC}|({REPLICATED}):([1-{COPIES_MOST}]))"
)


@functools.cache
def _made(kind: str, copies: int) -> Level:
    return Level(kind, copies)


def of_mesh() -> Level | None:
    """The level that MESH_DURABILITY names; None where it leaves that to the server."""
    return _parsed_setting(conf.DURABILITY) if conf.DURABILITY else None


@functools.lru_cache(maxsize=8)
def _parsed_setting(text: str) -> Level:
    try:
        return parse(text)
    except errors.InvalidOption as exc:
        raise errors.InvalidOption(f"MESH_DURABILITY: {exc}") from None


def granted(wanted: str | None = None) -> Level:
    """The level to reach: `wanted`, else the setting, else what the server does.

    InvalidOption for what this server cannot give; BusUnavailable, and nothing was
    written, while it misses replicas that it usually has, or does not answer.
    """
    level = of_mesh() if wanted is None else parse(wanted)
    if level is None or level.kind == MEMORY:
        return BY_ITSELF
    server = _cached()
    if server is None or server.lacks(level):
        # Looked at anew before it is refused: a replica may have come since.
        server = _server()
    return _checked(level, server)


async def agranted(wanted: str | None = None) -> Level:
    """`granted` for asyncio."""
    level = of_mesh() if wanted is None else parse(wanted)
    if level is None or level.kind == MEMORY:
        return BY_ITSELF
    server = _cached()
    if server is None or server.lacks(level):
        server = await _aserver()
    return _checked(level, server)


def level() -> Level:
    """What this server does by itself: `aof` where it keeps that file, else `memory`.

    Asked for at most every 5 s.
    """
    return (_cached() or _server()).level


async def alevel() -> Level:
    """`level` for asyncio."""
    return (_cached() or await _aserver()).level


def _server() -> Server:
    pause = patience.Pause(False)
    while True:
        try:
            client = connection.reader()
            return _learned(facts(client.info(*_SECTIONS), client))
        except (redis.RedisError, OSError) as exc:
            time.sleep(pause.after(exc))


async def _aserver() -> Server:
    pause = patience.Pause(False)
    while True:
        try:
            return _learned(await afacts(*_SECTIONS))
        except (redis.RedisError, OSError) as exc:
            await asyncio.sleep(pause.after(exc))


def _checked(wanted: Level, server: Server) -> Level:
    lack = server.lacks(wanted)
    if not lack:
        return wanted
    said = f"durability {str(wanted)!r} is more than this server gives: {lack}"
    known = of_mesh()
    usual = max(_most.get(address.redis_url(), 0), known.copies if known else 0)
    if wanted.kind == REPLICATED and wanted.copies <= usual:
        raise errors.BusUnavailable(f"{said} for now. Look at its replicas")
    raise errors.InvalidOption(said)


def facts(info: dict[str, Any], client: Any) -> dict[str, Any]:
    """INFO with what it does not tell: when the file is synced, if we may ask.

    BusyLoadingError while the server reads its file: it says then that it keeps none.
    """
    _loaded(info)
    with contextlib.suppress(redis.ResponseError):
        return info | _policy(client.execute_command(*_POLICY))
    return info


async def afacts(*sections: str) -> dict[str, Any]:
    """`facts` for asyncio, of the server we use."""
    client: Any = connection.get_redis_async()
    info: dict[str, Any] = await client.info(*sections)
    _loaded(info)
    with contextlib.suppress(redis.ResponseError):
        info |= _policy(await client.execute_command(*_POLICY))
    return info


def _loaded(info: dict[str, Any]) -> None:
    if int(info.get("loading", 0)):
        raise redis.exceptions.BusyLoadingError("LOADING Redis is reading its file")


def _policy(reply: Any) -> dict[str, str]:
    """The answer to `_POLICY`, in whatever protocol and encoding it came."""
    flat = reply
    if isinstance(reply, dict):
        flat = [part for pair in reply.items() for part in pair]
    text = [x.decode() if isinstance(x, bytes) else str(x) for x in flat]
    return dict(zip(text[::2], text[1::2], strict=True))


def server_of(facts: dict[str, Any]) -> Server:
    """What `facts` say of these things."""
    return Server(
        aof=bool(int(facts.get("aof_enabled", 0))),
        appendfsync=str(facts.get("appendfsync", "")),
        replicas=int(facts.get("connected_slaves", 0)),
    )


_told: dict[str, tuple[float, Server]] = {}
_most: dict[str, int] = {}  # replicas this process has seen at once


def _cached() -> Server | None:
    found = _told.get(address.redis_url())
    return found[1] if found is not None and time.monotonic() < found[0] else None


def _learned(info: dict[str, Any]) -> Server:
    url, server = address.redis_url(), server_of(info)
    _told[url] = (time.monotonic() + _FOR_S, server)
    _most[url] = max(_most.get(url, 0), server.replicas)
    return server


def forget() -> None:
    """Ask again, after a change of the server."""
    _told.clear()
    _most.clear()
