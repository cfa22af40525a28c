"""Levels of durability: what an acknowledgement means, and which ones a server gives.

memory        the server has it in memory
aof           it is in the append-only file, which is synced every second
fsync         that file was synced to the disk since (WAITAOF)
replicated:k  k replicas have it (WAIT)

The first two are what a server is set to do, the others are waited for. A level that
this server cannot give is refused, never lowered.
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
WAITAOF_SINCE: Final = (7, 2)  # Valkey tells the Redis version it is compatible with
_FOR_S: Final = 5.0  # a server changes this only when an operator does
_SECTIONS: Final = ("server", "persistence", "replication")


@dataclass(frozen=True, slots=True)
class Level:
    """One level; `copies` is the k of `replicated:k`."""

    kind: str
    copies: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.copies}" if self.copies else self.kind

    @property
    def waits(self) -> bool:
        """Whether an acknowledgement has to wait for it."""
        return self.kind in (FSYNC, REPLICATED)

    def command(self, timeout_s: float) -> tuple[Any, ...]:
        """What to ask on the connection that wrote, once it has written."""
        timeout_ms = max(1, int(timeout_s * 1000))  # 0 would wait for ever
        if self.kind == FSYNC:
            return ("WAITAOF", 1, 0, timeout_ms)
        return ("WAIT", self.copies, timeout_ms)

    def reached(self, reply: Any) -> bool:
        """Whether the server's answer to `command` says so."""
        if self.kind == FSYNC:
            return bool(reply[0] >= 1)
        return bool(reply >= self.copies)


BY_ITSELF: Final = Level("")  # nobody asked for one: `level()` says what there is


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is set to do with what it has acknowledged."""

    aof: bool
    syncs: bool  # its file is synced by itself, sooner or later
    waitaof: bool
    replicas: int

    @property
    def level(self) -> Level:
        """What it gives without anybody waiting."""
        return Level(AOF if self.aof else MEMORY)

    def lacks(self, wanted: Level) -> str:
        """Why it cannot give this level; empty if it can."""
        if wanted.kind == REPLICATED:
            if self.replicas >= wanted.copies:
                return ""
            have = {0: "no replica", 1: "1 replica"}
            return f"it has {have.get(self.replicas, f'{self.replicas} replicas')}"
        if wanted.kind in (AOF, FSYNC) and not self.aof:
            return "it keeps no append-only file (CONFIG SET appendonly yes)"
        if wanted.kind == FSYNC and not self.waitaof:
            return "it knows no WAITAOF: Valkey, or Redis 7.2 or newer, does"
        if wanted.kind == FSYNC and not self.syncs:
            return "it never syncs its file (CONFIG SET appendfsync everysec)"
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
            info = client.info(*_SECTIONS)
            with contextlib.suppress(redis.ResponseError):  # a user who may not ask
                info |= client.config_get("appendfsync")
            return _learned(info)
        except (redis.RedisError, OSError) as exc:
            time.sleep(pause.after(exc))


async def _aserver() -> Server:
    pause = patience.Pause(False)
    while True:
        try:
            client: Any = connection.get_redis_async()
            info = await client.info(*_SECTIONS)
            with contextlib.suppress(redis.ResponseError):
                info |= await client.config_get("appendfsync")
            return _learned(info)
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


def server_of(info: dict[str, Any]) -> Server:
    """What INFO (and `appendfsync`, if it may be asked for) say of these things."""
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    return Server(
        aof=bool(int(info.get("aof_enabled", 0))),
        syncs=info.get("appendfsync") != "no",
        waitaof=version >= WAITAOF_SINCE,
        replicas=int(info.get("connected_slaves", 0)),
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
