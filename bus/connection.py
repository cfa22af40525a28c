"""Clients of the server in three profiles, with Redis errors mapped at one boundary.

read    `get_redis`, `get_redis_async`: pages and introspection; few retries
write   scripts: no retries of redis-py's own, because it would send twice what we
        decide to repeat (`scripts.py` does, with the same id)
block   blocking reads: a connection of its own, socket timeout beyond the block
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry as SyncRetry

from . import conf as settings
from . import errors
from .conf import conf

DEFAULT_URL: Final = "redis://redis:6379/0"
_SCHEMES: Final = ("redis", "rediss", "unix")

# Reply words after which nothing was written and the same send may be repeated; for
# several of them redis-py has no class, hence words.
_PASSING: Final = frozenset(
    (
        "READONLY",
        "UNBLOCKED",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "BUSY",
        "TRYAGAIN",
    )
)
_REFUSED: Final = _PASSING | {"OOM", "MISCONF", "NOREPLICAS"}

_lock = threading.Lock()
_sync: dict[tuple[Any, ...], redis.Redis] = {}
# Keyed weakly by loop: a client must never be used on another loop than its own.
_async: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[tuple[Any, ...], redis.asyncio.Redis]
] = weakref.WeakKeyDictionary()


def _redis_url() -> str:
    """REDIS_URL, else the embedded server of this folder, else the founding default."""
    given = settings.redis_url_given()
    if given:
        return given
    try:
        announced = settings.announcement().read_text().strip()
    except OSError:
        announced = ""
    return announced or DEFAULT_URL


def shown_url(url: str) -> str:
    """The URL for eyes and logs: without any password, parseable or not."""
    url = re.sub(r"([?&](?:password|username)=)[^&]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, mark, login = head.rpartition("://")
    user = login.partition(":")[0] if ":" in login else "***"
    return f"{scheme}{mark}{user}:***@{tail}" if mark else f"***@{tail}"


def _checked_url() -> str:
    url = _redis_url()
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsing a port is lazy and may raise
        bad = parts.scheme not in _SCHEMES or not (parts.hostname or parts.path)
        if parts.scheme != "unix":
            bad = bad or not re.fullmatch(r"/?|/\d+", parts.path)
    except ValueError:
        bad = True
    if bad:
        raise errors.InvalidOption(
            f"REDIS_URL {shown_url(url)!r} cannot be parsed; it looks like "
            "redis://host:6379/0, rediss://… for TLS, or unix:///path/to/socket"
        )
    return url


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
        **over,
    }


def _keepalive(url: str) -> dict[str, Any]:
    # Unix sockets know no keepalive and redis-py refuses the option there.
    return {} if url.startswith("unix") else {"socket_keepalive": True}


def _make_sync(url: str, **over: Any) -> redis.Redis:
    options = _options(**_keepalive(url), **over)
    try:
        if options.get("single_connection_client"):
            return redis.Redis.from_url(url, **options)
        # A thread beyond the last connection waits for one instead of failing.
        wait_s = conf.SOCKET_TIMEOUT_S
        pool = redis.BlockingConnectionPool.from_url(url, timeout=wait_s, **options)
        pool.connection_class(**pool.connection_kwargs)  # does it take the options?
        return redis.Redis.from_pool(pool)
    except (TypeError, ValueError) as exc:
        raise errors.InvalidOption(f"REDIS_URL: {exc}") from None


def _make_async(url: str, **over: Any) -> redis.asyncio.Redis:
    options = _options(**_keepalive(url), **over)
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, timeout=conf.SOCKET_TIMEOUT_S, **options
        )
        pool.connection_class(**pool.connection_kwargs)
        return redis.asyncio.Redis.from_pool(pool)
    except (TypeError, ValueError) as exc:
        raise errors.InvalidOption(f"REDIS_URL: {exc}") from None


def _shared_sync(profile: str, **over: Any) -> redis.Redis:
    url = _checked_url()
    # The pid: after a fork the child makes its own sockets.
    key = (url, profile, os.getpid(), conf.POOL_SIZE, conf.SOCKET_TIMEOUT_S)
    client = _sync.get(key)
    if client is None:
        with _lock:
            client = _sync.get(key) or _make_sync(url, **over)
            _sync[key] = client
    return client


def _shared_async(profile: str, **over: Any) -> redis.asyncio.Redis:
    url = _checked_url()
    loop = asyncio.get_running_loop()
    clients = _async.setdefault(loop, {})
    key = (url, profile, conf.POOL_SIZE, conf.SOCKET_TIMEOUT_S)
    client = clients.get(key)
    if client is None:
        client = clients[key] = _make_async(url, **over)
    return client


def get_redis() -> redis.Redis:
    """The shared client of this process: 50 connections, 5 s timeouts, text replies."""
    backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
    return _shared_sync("read", retry=SyncRetry(backoff, 3))


def reader() -> Any:
    """`get_redis` for our own modules; redis-py's types cover bytes replies as well."""
    return get_redis()


def get_redis_async() -> redis.asyncio.Redis:
    """The shared asyncio client of the running loop; same limits as `get_redis`."""
    backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
    return _shared_async("read", retry=AsyncRetry(backoff, 3))


def writer() -> redis.Redis:
    """The shared client for scripts: never sends anything twice by itself."""
    return _shared_sync("write", retry=SyncRetry(NoBackoff(), 0))


def awriter() -> redis.asyncio.Redis:
    """`writer` of the running loop."""
    return _shared_async("write", retry=AsyncRetry(NoBackoff(), 0))


def dedicated(*, block_s: float = 0.0, name: str = "") -> redis.Redis:
    """A client of one connection, for a thread's beats or blocking reads; close it."""
    return _make_sync(
        _checked_url(),
        retry=SyncRetry(NoBackoff(), 0),
        single_connection_client=True,
        socket_timeout=conf.SOCKET_TIMEOUT_S + block_s,
        client_name=name or None,
    )


def adedicated(*, block_s: float = 0.0, name: str = "") -> redis.asyncio.Redis:
    """`dedicated` for asyncio; its few connections are its own. Close it."""
    return _make_async(
        _checked_url(),
        retry=AsyncRetry(NoBackoff(), 0),
        max_connections=4,
        socket_timeout=conf.SOCKET_TIMEOUT_S + block_s,
        client_name=name or None,
    )


def blocker() -> Any:
    """The shared client for short blocking reads; a block stays under 2 s."""
    return _shared_sync(
        "block",
        retry=SyncRetry(NoBackoff(), 0),
        socket_timeout=conf.SOCKET_TIMEOUT_S + 2.0,
    )


def code_word(exc: BaseException) -> str:
    """The error code a server reply begins with, such as NOGROUP; else empty."""
    if not isinstance(exc, redis.RedisError):
        return ""
    for cls, word in _WORDS_OF_CLASS.items():
        if isinstance(exc, cls):
            return word
    head = str(exc).partition(" ")[0].lstrip("-")
    return head if head.isupper() else ""


# redis-py strips the code word from the errors it has a class for.
_WORDS_OF_CLASS: Final[dict[type[redis.RedisError], str]] = {
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.NoPermissionError: "NOPERM",
}


def is_unknown(exc: BaseException) -> bool:
    """Whether the request may have been executed although no reply came."""
    lost = isinstance(exc, (redis.ConnectionError, redis.TimeoutError, OSError))
    return lost and not isinstance(exc, redis.exceptions.BusyLoadingError)


def is_passing(exc: BaseException) -> bool:
    """Whether repeating the same send soon can succeed."""
    return is_unknown(exc) or code_word(exc) in _PASSING


def mapped(exc: BaseException, *, wrote: bool = False) -> errors.BusError:
    """Our error for a Redis error; `wrote` if the request could have changed state."""
    if isinstance(exc, redis.exceptions.AuthenticationError):
        return errors.BusUnavailable(f"Redis refuses our credentials: {exc}")
    if _no_connection_left(exc):
        return errors.BusUnavailable("all connections of this process are in use")
    if is_unknown(exc):
        url = _redis_url()
        text = f"Redis does not answer at {shown_url(url)}: {shown_url(str(exc))}"
        if wrote and not _never_sent(exc):
            return errors.OutcomeUnknown(text)
        hint = "is it running, and is REDIS_URL right?"
        if not settings.redis_url_given():
            hint = "start the mesh of this folder with `make run`, or set REDIS_URL"
        return errors.BusUnavailable(f"{text} {hint}")
    if code_word(exc) in _REFUSED:
        return errors.BusUnavailable(f"Redis refuses this for now: {exc}")
    return errors.BusError(f"Redis refused a command of ours: {exc}")


def _no_connection_left(exc: BaseException) -> bool:
    """Whether the pool, not the server, refused."""
    full = isinstance(exc, redis.exceptions.MaxConnectionsError)
    return full or "No connection available" in str(exc)


def _never_sent(exc: BaseException) -> bool:
    """Whether there was no connection at all over which something could be sent."""
    cause = exc.__cause__ or exc.__context__
    return isinstance(
        cause,
        (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror),
    )


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """The boundary for single reading commands: Redis errors leave as ours."""
    try:
        yield
    except (redis.RedisError, OSError) as exc:
        raise mapped(exc) from exc


def reset() -> None:
    """Drop the shared clients, for tests that change the URL under a process."""
    with _lock:
        for client in _sync.values():
            client.close()
        _sync.clear()
