"""Levels of durability: what an acknowledgement of this server means."""

from __future__ import annotations

import time
from typing import Any, Final

from . import address, connection, errors, refusals

AOF: Final = "aof"
MEMORY: Final = "memory"
_KNOWN: Final = (MEMORY, AOF)
_FOR_S: Final = 5.0  # a server changes this only when an operator does

_told: dict[str, tuple[float, str]] = {}


def level() -> str:
    """`aof` if the server keeps an append-only file, else `memory`."""
    known = _cached()
    if known is None:
        with refusals.guard():
            known = _learned(connection.reader().info("persistence"))
    return known


async def alevel() -> str:
    """`level` for asyncio."""
    known = _cached()
    if known is None:
        with refusals.guard():
            known = _learned(await connection.get_redis_async().info("persistence"))
    return known


def check(wanted: str | None) -> None:
    """InvalidOption where the server cannot give this level; never a lower one."""
    if _known(wanted) == AOF and level() != AOF:
        raise _too_high()


async def acheck(wanted: str | None) -> None:
    """`check` for asyncio."""
    if _known(wanted) == AOF and await alevel() != AOF:
        raise _too_high()


def _known(wanted: str | None) -> str | None:
    if wanted is not None and wanted not in _KNOWN:
        raise errors.InvalidOption(
            f"durability {wanted!r:.80} is not one this mesh gives: {', '.join(_KNOWN)}"
        )
    return wanted


def _too_high() -> errors.InvalidOption:
    return errors.InvalidOption(
        "durability 'aof' is more than this server gives: it keeps no append-only file"
    )


def _cached() -> str | None:
    until, known = _told.get(address.redis_url(), (0.0, ""))
    return known if time.monotonic() < until else None


def _learned(info: dict[str, Any]) -> str:
    known = AOF if int(info.get("aof_enabled", 0)) else MEMORY
    _told[address.redis_url()] = (time.monotonic() + _FOR_S, known)
    return known


def forget() -> None:
    """Ask again, after a change of the server."""
    _told.clear()
