"""Clients of the server in their profiles.

read    `get_redis`, `get_redis_async`: pages and introspection; few retries where the
        connection broke, none where an answer did not come in time
write   scripts: never sent twice by the client, because `scripts.py` decides what to
        repeat, with the same id. Sync calls take a `lines.Line` of a bounded pool
settle  scripts whose callers then wait for the level of durability they want: a pool of
        its own, so that a replica that lags holds up nobody else
wait    threads that wait for a stream, 2 s at a time: a pool of its own as well

Beside them `dedicated` is a connection for one thread's beats or blocking reads, with a
socket timeout beyond the block; `adedicated` and `awire` are a `wire.Wire` of a loop:
claim, complete, blocking reads, the express lane.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as SyncRetry

from . import address, lines, wire
from .conf import conf

BLOCK_MOST_S: Final = 2.0
# redis-py would read which version it is from its distribution's files, for each
# connection anew, which is half of what it takes to open one.
DRIVER: Final = redis.DriverInfo()
# redis-py would ask the server to tell of its maintenance, between replies; on a line
# nobody waits for that. A connection that ends for it is made anew as after any end.
_UNTOLD: Final = MaintNotificationsConfig(enabled=False)

_lock = threading.Lock()
_lines: dict[tuple[Any, ...], lines.Lines] = {}
_sync: dict[tuple[Any, ...], redis.Redis] = {}
# Keyed by loop: a client must never be used on another loop than its own.
_OfLoops = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]]
_async: _OfLoops = weakref.WeakKeyDictionary()
_wires: _OfLoops = weakref.WeakKeyDictionary()
_keepers: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, list[AsyncGenerator[None]]
] = weakref.WeakKeyDictionary()


def _options(**over: Any) -> dict[str, Any]:
    return {
        "decode_responses": True,
        # Entries that somebody else wrote need not be UTF-8; they must not take down
        # whoever reads them. Broken bytes show as \\xff and make no valid JSON.
        "encoding_errors": "backslashreplace",
        "max_connections": conf.POOL_SIZE,
        "socket_timeout": conf.SOCKET_TIMEOUT_S,
        "socket_connect_timeout": conf.SOCKET_TIMEOUT_S,
        "health_check_interval": conf.HEALTH_CHECK_S,
        "driver_info": DRIVER,
        "maint_notifications_config": _UNTOLD,
        **over,
    }


def _keepalive(url: str) -> dict[str, Any]:
    # Unix sockets know no keepalive and redis-py refuses the option there.
    return {} if url.startswith("unix") else {"socket_keepalive": True}


def _make_sync(url: str, **over: Any) -> redis.Redis:
    options = _options(**_keepalive(url), **over)
    if options.get("single_connection_client"):
        return redis.Redis.from_url(url, **options)
    # A thread beyond the last connection waits for one instead of failing.
    wait_s = conf.SOCKET_TIMEOUT_S
    pool = redis.BlockingConnectionPool.from_url(url, timeout=wait_s, **options)
    return redis.Redis.from_pool(pool)


def _make_async(url: str, **over: Any) -> redis.asyncio.Redis:
    options = _options(**_keepalive(url), **over)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, timeout=conf.SOCKET_TIMEOUT_S, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def _shared_sync(profile: str, **over: Any) -> redis.Redis:
    url = address.checked_url()
    # The pid: after a fork the child makes its own sockets.
    key = (url, profile, os.getpid(), conf.POOL_SIZE, conf.SOCKET_TIMEOUT_S)
    client = _sync.get(key)
    if client is None:
        with _lock:
            client = _sync.get(key) or _make_sync(url, **over)
            _sync[key] = client
    return client


def _shared_async(profile: str, **over: Any) -> redis.asyncio.Redis:
    url = address.checked_url()
    clients = _of_running_loop(_async)
    key = (url, profile, conf.POOL_SIZE, conf.SOCKET_TIMEOUT_S)
    client = clients.get(key)
    if client is None:
        client = clients[key] = _make_async(url, **over)
    return client


def _of_running_loop(known: _OfLoops) -> dict[Any, Any]:
    """The clients of the running loop; they are closed as it ends."""
    loop = asyncio.get_running_loop()
    found = known.get(loop)
    if found is None:
        found = known.setdefault(loop, {})
        keeper = _closed_with(loop, known, found)
        with contextlib.suppress(StopIteration):
            keeper.asend(None).send(None)  # to its yield, where the loop knows of it
        _keepers.setdefault(loop, []).append(keeper)
    return found


async def _closed_with(
    loop: asyncio.AbstractEventLoop, known: _OfLoops, found: dict[Any, Any]
) -> AsyncGenerator[None]:
    """Close the clients of a loop: as one ends, asyncio ends its generators.

    Each `asyncio.run` and each `async_to_sync` of a thread has a loop of its own.
    """
    try:
        yield
    finally:
        known.pop(loop, None)
        _keepers.pop(loop, None)
        for client in found.values():
            with contextlib.suppress(redis.RedisError, OSError):
                await client.aclose()


# A connection that broke is made anew: servers restart. Who waited for a whole timeout
# has waited enough: asked again, a server that hangs would hold up a page four times.
_READ_AGAIN: Final = (redis.ConnectionError,)


def get_redis() -> redis.Redis:
    """The shared client of this process: 50 connections, 5 s timeouts, text replies."""
    backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
    return _shared_sync("read", retry=SyncRetry(backoff, 3, _READ_AGAIN))


def reader() -> Any:
    """`get_redis` for our own modules; redis-py's types cover bytes replies as well."""
    return get_redis()


def get_redis_async() -> redis.asyncio.Redis:
    """The shared asyncio client of the running loop; same limits as `get_redis`."""
    backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
    return _shared_async("read", retry=AsyncRetry(backoff, 3, _READ_AGAIN))


def _readers_move() -> None:
    """Have reads connect anew, for what a write met told of another server.

    One that was demoted goes on answering them, with what it knew then and what reaches
    it since. Those in use find another end by themselves.
    """
    for (_, profile, pid, *_), client in list(_sync.items()):
        if profile == "read" and pid == os.getpid():
            client.connection_pool.disconnect(inuse_connections=False)


async def amove(client: redis.asyncio.Redis) -> None:
    """The same for this client of the running loop, and all who read."""
    _readers_move()
    for each in (client, get_redis_async()):
        await each.connection_pool.disconnect(inuse_connections=False)


def writer() -> lines.Lines:
    """The connections scripts go over: bounded, waited for, nothing sent twice."""
    return _shared_lines("write")


def settler() -> lines.Lines:
    """`writer` for those who wait on it for a level of durability."""
    return _shared_lines("settle")


def waiter() -> lines.Lines:
    """The connections on which threads wait for streams, 2 s at a time."""
    return _shared_lines("wait")


def _shared_lines(profile: str) -> lines.Lines:
    url = address.checked_url()
    block_s = _blocks_s(profile)
    key = (profile, url, os.getpid(), conf.POOL_SIZE, conf.SOCKET_TIMEOUT_S, block_s)
    pool = _lines.get(key)
    if pool is None:
        with _lock:
            pool = _lines.get(key)
            if pool is None:
                pool = _lines[key] = lines.Lines(
                    lambda: dedicated(block_s=block_s),
                    conf.POOL_SIZE,
                    conf.SOCKET_TIMEOUT_S,
                    url,
                    _readers_move,
                )
    return pool


def _blocks_s(profile: str) -> float:
    """How long the server may hold an answer back on such a connection."""
    if profile == "settle":
        return float(conf.DURABILITY_TIMEOUT_S)
    return BLOCK_MOST_S if profile == "wait" else 0.0


def awriter() -> redis.asyncio.Redis:
    """`writer` of the running loop."""
    return _shared_async("write", retry=AsyncRetry(NoBackoff(), 0))


def awire() -> wire.Wire:
    """The wire of the running loop that is shared, for scripts that many wait for."""
    key = (address.redis_url(), conf.SOCKET_TIMEOUT_S)
    wires: dict[Any, wire.Wire] = _of_running_loop(_wires)
    if key not in wires:
        wires[key] = adedicated()
    return wires[key]


def asettler() -> redis.asyncio.Redis:
    """`settler` of the running loop."""
    timeout_s = conf.SOCKET_TIMEOUT_S + _blocks_s("settle")
    retry = AsyncRetry(NoBackoff(), 0)
    return _shared_async("settle", retry=retry, socket_timeout=timeout_s)


def dedicated(*, block_s: float = 0.0, name: str = "") -> redis.Redis:
    """A client of one connection, for a thread's beats or blocking reads; close it."""
    options = dedicated_options(block_s, name)
    return _make_sync(address.checked_url(), **options)


def dedicated_options(block_s: float = 0.0, name: str = "") -> dict[str, Any]:
    """What makes a client dedicated: one connection that never sends twice."""
    return {
        "retry": SyncRetry(NoBackoff(), 0),
        "single_connection_client": True,
        "socket_timeout": conf.SOCKET_TIMEOUT_S + block_s,
        "client_name": name or None,
    }


def adedicated(*, block_s: float = 0.0, name: str = "") -> wire.Wire:
    """One connection for an agent's loop; many calls may wait on it. Close it."""
    timeout_s = conf.SOCKET_TIMEOUT_S + block_s
    return wire.Wire(address.checked_url(), timeout_s, name, _readers_move)


def reset() -> None:
    """Drop the shared clients, for tests that change the URL under a process."""
    with _lock:
        for client in _sync.values():
            client.close()
        _sync.clear()
        for pool in _lines.values():
            pool.close()
        _lines.clear()
