"""Where the server is, and how to say so without its password."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from . import conf as settings
from . import errors

DEFAULT_URL: Final = "redis://redis:6379/0"
_SCHEMES: Final = ("redis", "rediss", "unix")


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
    url = re.sub(r"([?&](?:password|username)=)[^&]*", r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, mark, login = head.rpartition("://")
    user = login.partition(":")[0] if ":" in login else "***"
    return f"{scheme}{mark}{user}:***@{tail}" if mark else f"***@{tail}"


def checked_url() -> str:
    """The URL, or InvalidOption saying how one looks."""
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
