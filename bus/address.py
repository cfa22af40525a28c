"""Where the server is, and how to say so without its password."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio

from . import conf as settings
from . import errors

DEFAULT_URL: Final = "redis://redis:6379/0"
_SCHEMES: Final = ("redis", "rediss", "unix")
# What a URL may say beyond where the server is, beside all about TLS. With redis-py its
# options win over what a client is made with, and the mesh relies on that: a shorter
# timeout would cut its waits, another name hide an agent that lives. An agent's own
# connection would not even look at them.
_OPTIONS: Final = ("db", "username", "password", "protocol", "socket_keepalive")
_OF_TLS: Final = "ssl_"
# Of TLS as well: that of a key.
_SECRET: Final = re.compile(r"([?&](?:[^=&]*password|username)=)[^&]*", re.IGNORECASE)
_INSTEAD: Final = {
    "socket_timeout": "MESH_SOCKET_TIMEOUT_S",
    "socket_connect_timeout": "MESH_SOCKET_TIMEOUT_S",
    "timeout": "MESH_SOCKET_TIMEOUT_S",
    "health_check_interval": "MESH_HEALTH_CHECK_S",
    "max_connections": "MESH_POOL_SIZE",
}


def redis_url() -> str:
    """REDIS_URL, else the embedded server of this folder, else the founding default."""
    given = settings.redis_url_given()
    if given:
        return given
    path = str(settings.announcement())
    try:
        # Asked for on every call: to look at the file costs a tenth of reading it.
        facts = os.stat(path)
        return _announced(path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
    except OSError:
        return DEFAULT_URL


@functools.lru_cache(maxsize=8)
def _announced(path: str, *_: int) -> str:
    """What the file of these facts says."""
    return Path(path).read_text().strip() or DEFAULT_URL


def shown_url(url: str) -> str:
    """The URL for eyes and logs: without any password, parseable or not."""
    url = _SECRET.sub(r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, mark, login = head.rpartition("://")
    user = login.partition(":")[0] if ":" in login else "***"
    return f"{scheme}{mark}{user}:***@{tail}" if mark else f"***@{tail}"


def checked_url() -> str:
    """The URL, or InvalidOption saying how one looks, or what it may not say."""
    url = redis_url()
    _check(url)
    return url


@functools.lru_cache(maxsize=64)
def _check(url: str) -> None:
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
    for name in parse_qs(parts.query):
        _check_option(name)
    try:
        _try(url)
    except (TypeError, ValueError, OSError, redis.RedisError) as exc:
        raise errors.InvalidOption(f"REDIS_URL: {exc}") from None


def _check_option(name: str) -> None:
    if name in _OPTIONS or name.startswith(_OF_TLS):
        return
    if name in _INSTEAD:
        how = f"the setting {_INSTEAD[name]} says that"
    else:
        how = f"it may say {', '.join(_OPTIONS)}, and with rediss:// {_OF_TLS}…"
    raise errors.InvalidOption(f"REDIS_URL: leave out {name:.40}; {how}")


def _try(url: str) -> None:
    """Do what comes before the first byte is sent, which finds what else is wrong."""
    facts: dict[str, Any] = dict(redis.asyncio.connection.parse_url(url))
    made = facts.pop("connection_class", redis.asyncio.Connection)(**facts)
    if isinstance(made, redis.asyncio.SSLConnection):
        made.ssl_context.get()
