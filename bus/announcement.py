"""The file by which every command of a folder finds its running server."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import conf, errors


@dataclass(frozen=True)
class Answer:
    """What a running server says about itself."""

    url: str
    pid: int
    version: str  # such as "Valkey 8.1.8"


def publish(url: str) -> None:
    """Tell every command of this folder where the server is."""
    path = conf.announcement()
    fresh = path.with_name(f".url.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(fresh, url + "\n")
        fresh.replace(path)  # a reader sees the old URL or the new one, never half
    except OSError as exc:
        raise errors.ServerError(f"cannot write {path}: {exc.strerror}") from exc


def withdraw(url: str) -> None:
    """Take `url` back, unless the announcement is somebody else's by now."""
    with contextlib.suppress(OSError):
        if conf.announcement().read_text().strip() == url:
            conf.announcement().unlink()


def read() -> str:
    """Where the server of this folder is said to be; empty where nobody said."""
    try:
        return conf.announcement().read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def running() -> Answer | None:
    """The announced server of this folder, if it really answers."""
    try:
        return ask(read())
    except errors.ServerError:
        return None


def ask(url: str, *, timeout_s: float = 2.0) -> Answer:
    """What the server at `url` says about itself; ServerError if it does not answer."""
    try:
        with client(url, timeout_s=timeout_s) as connection:
            # INFO rather than PING: it is answered while data is still loading.
            info: dict[str, Any] = connection.info("server")
    except (redis.RedisError, OSError, ValueError) as exc:
        raise errors.ServerError(str(exc).rstrip(".")) from exc
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "of some version")
    return Answer(url, int(info.get("process_id", 0)), f"{name} {version}")


def client(url: str, *, timeout_s: float) -> redis.Redis:
    """A client that asks once, where waiting or repeating is the caller's business."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whatever stood there before."""
    # Unlinked first: O_CREAT leaves the mode of an existing file as it is.
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
