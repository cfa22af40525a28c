"""Which version of the keys' layout a server holds, and whether this code knows it.

The version is written once, when the first process of a mesh starts, and compared by
each one after it: a newer layout read with older eyes would lose tasks.
"""

from __future__ import annotations

from typing import Any, Final

import redis

from . import address, announcement, connection, errors, keys, records, refusals
from .conf import conf

# Raised by a change that an older mesh would misread; such a change brings its way up.
VERSION: Final = 1


def check(url: str | None = None) -> None:
    """Refuse a server whose layout we do not know; mark one that has none as ours.

    `url` instead of the one every command uses. WrongLayout says what to do;
    BusUnavailable where the server does not answer.
    """
    _compare(_told(url, mark=True), url)


async def acheck() -> None:
    """`check` for an agent's loop, where it can be cancelled."""
    client: Any = connection.get_redis_async()
    try:
        told = await client.get(keys.FORMAT)
        if told is None:
            told = await client.set(keys.FORMAT, VERSION, nx=True, get=True)
    except (redis.RedisError, OSError) as exc:
        told = _refused(exc)
    _compare(told)


def look() -> str | None:
    """The version as it stands, None where no mesh has started yet; writes nothing.

    WrongLayout and BusUnavailable as for `check`.
    """
    told = _told(None, mark=False)
    _compare(told)
    return told


def _told(url: str | None, *, mark: bool) -> str | None:
    """What the server says, asked over a connection of its own: once per process."""
    url = url or address.checked_url()
    try:
        with announcement.client(url, timeout_s=conf.SOCKET_TIMEOUT_S) as client:
            raw: Any = client.get(keys.FORMAT)
            if raw is None and mark:
                # NX and GET in one: of two that start at once, one has been first.
                raw = client.set(keys.FORMAT, VERSION, nx=True, get=True)
    except (redis.RedisError, OSError) as exc:
        return _refused(exc)
    return None if raw is None else raw.decode(errors="backslashreplace")


def _refused(exc: Exception) -> str | None:
    """What to take for the answer where the server gave none."""
    said = str(exc)
    if "WRONGTYPE" in said:
        return "no text at all"
    if isinstance(exc, redis.exceptions.OutOfMemoryError):
        # An agent must be able to start at maxmemory. Nobody has marked this server
        # yet, so nobody newer has; the next start writes it.
        return None
    raise refusals.mapped(exc) from exc


def _compare(told: str | None, url: str | None = None) -> None:
    if told is None or told == str(VERSION):
        return
    where = address.shown_url(url or address.redis_url())
    elsewhere = (
        "point REDIS_URL at another server or database (redis://…/1), or give this "
        "mesh another MESH_VAR_DIR"
    )
    if records.number(told, 9):
        raise errors.WrongLayout(
            f"the data at {where} is in layout {int(told)}, this mesh knows layout "
            f"{VERSION}: another version of it has been here. Update this one, or "
            f"{elsewhere}. Nothing was touched"
        )
    raise errors.WrongLayout(
        f"{keys.FORMAT} at {where} holds {told!r:.60}, which is no version of a mesh: "
        f"another program's data? If so, {elsewhere}; if it was changed by hand, type "
        f"SET {keys.FORMAT} {VERSION} in redis-cli. Nothing was touched"
    )
