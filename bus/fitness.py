"""Whether a server is set up so that the mesh can keep its promises on it.

Looked at when a process starts, by `doctor`, and by whoever asks if we are ready. What
would lose acknowledged tasks for certain is refused, the rest is a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import redis

from . import address, announcement, conf, errors, levels, refusals
from .home.binary import OLDEST_VERSION

log = logging.getLogger("bus.fitness")

OK: Final = "ok"
WARN: Final = "warn"
BAD: Final = "bad"

_FILLING: Final = 0.8
# A send weighs on the server's memory before it is judged: its buffers, its arguments.
# Where there is no room for those, it is refused.
_SEND_BYTES: Final = 32 * 1024
# What a start is refused for: it does not pass by itself, as a replica that is late, a
# role after a fail-over or a full disk may. With those one starts, and is not ready.
_FATAL: Final = frozenset(("old", "evicts", "too little"))

# Ranges of versions `(from, before)` in which something is known to be broken.
# Distributions mend without a new number, hence no more than a warning.
_Range = tuple[tuple[int, ...], tuple[int, ...]]
_BROKEN: Final[dict[str, list[tuple[str, list[_Range]]]]] = {
    "Valkey": [
        (
            "scripts can break out of their sandbox (CVE-2025-49844)",
            [((0,), (7, 2, 11)), ((8, 0), (8, 0, 6)), ((8, 1), (8, 1, 4))],
        ),
        (
            "packets to its cluster bus can crash it (CVE-2026-21863)",
            [((8, 1), (8, 1, 6))],
        ),
    ],
    "Redis": [
        (
            "scripts can break out of their sandbox (CVE-2025-49844)",
            [
                ((0,), (7, 2, 11)),
                ((7, 4), (7, 4, 6)),
                ((8, 0), (8, 0, 4)),
                ((8, 2), (8, 2, 2)),
            ],
        ),
        (
            "XACKDEL can overflow its stack (CVE-2025-62507)",
            [((8, 2), (8, 2, 3))],
        ),
        (
            "XAUTOCLAIM can overflow its heap (CVE-2022-35951)",
            [((7, 0), (7, 0, 5))],
        ),
    ],
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `status` ok, warn or bad, a sentence, and what to type if any.

    `word` says what is wrong to those who may not hear the sentence, and names nothing
    of the mesh; `topic` is the one it is about, if it is about one.
    """

    name: str
    status: str
    says: str
    hint: str = ""
    word: str = ""
    topic: str = ""

    def __str__(self) -> str:
        return f"{self.says} ({self.hint})" if self.hint else self.says


def findings(info: dict[str, Any], url: str | None = None) -> Iterator[Check]:
    """What `levels.facts` say; InvalidOption for a MESH_DURABILITY that is none.

    They are of the server at `url`, else of the one every command uses.
    """
    url = url or address.redis_url()
    yield from _version(info, url)
    yield _eviction(info)
    yield _persistence(info)
    role = str(info.get("role", "master"))
    if role != "master":
        hint = "use the primary's address"
        yield Check("role", BAD, f"the server is a {role}", hint, "replica")
    yield from _durability(info)
    if int(info.get("cluster_enabled", 0)):
        says = "a node of a cluster: the mesh asks this one only, for all topics"
        hint = "use a server of its own, or a cluster whose slots are all on this node"
        yield Check("cluster", WARN, says, hint, "cluster")
    yield _memory(info, url)


def check(url: str | None = None) -> None:
    """Refuse to start on a server that would lose tasks; log what else is not well.

    `url` instead of the one every command uses. UnfitServer says what to do;
    BusUnavailable where the server does not answer.
    """
    url = url or address.checked_url()
    try:
        timeout_s = conf.conf.SOCKET_TIMEOUT_S
        with announcement.client(url, timeout_s=timeout_s) as client:
            info = levels.facts(client.info(), client)
    except (redis.RedisError, OSError) as exc:
        raise refusals.mapped(exc) from exc
    _judge(info, url)


async def acheck() -> None:
    """`check` for an agent's loop, where it can be cancelled."""
    try:
        info = await levels.afacts()
    except (redis.RedisError, OSError) as exc:
        raise refusals.mapped(exc) from exc
    _judge(info, address.redis_url())


def _judge(info: dict[str, Any], url: str) -> None:
    found = [each for each in findings(info, url) if each.status != OK]
    fatal = [str(each) for each in found if each.word in _FATAL]
    if fatal:
        where = address.shown_url(url)
        said = f"this mesh does not start on the server at {where}: "
        raise errors.UnfitServer(said + "; ".join(fatal))
    if found:
        log.warning("the server: %s", "; ".join(map(str, found)))


def _version(info: dict[str, Any], url: str) -> Iterator[Check]:
    name = "Valkey" if "valkey_version" in info else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version", "0"))
    says = f"{name} {text} at {address.shown_url(url)}"
    # Valkey also tells the version of Redis it is compatible with.
    if _numbers(info.get("redis_version", "0")) < OLDEST_VERSION:
        yield Check("redis", BAD, says, "7.0 or newer is needed", "old")
    else:
        yield Check("redis", OK, says)
    numbers = _numbers(text)
    broken = [
        what
        for what, ranges in _BROKEN[name]
        if any(since <= numbers < before for since, before in ranges)
    ]
    if broken:
        hint = "update it, unless your distribution has mended it"
        yield Check("version", WARN, "; ".join(broken), hint, "outdated")


def _numbers(version: object) -> tuple[int, ...]:
    parts = str(version).split("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _eviction(info: dict[str, Any]) -> Check:
    policy = str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        says = "noeviction: full memory refuses, deletes nothing"
        return Check("eviction", OK, says)
    return Check(
        "eviction",
        BAD,
        f"maxmemory-policy {policy} deletes tasks when memory is full",
        "CONFIG SET maxmemory-policy noeviction, and in the server's config file",
        "evicts",
    )


def _persistence(info: dict[str, Any]) -> Check:
    if not info.get("aof_enabled"):
        return Check(
            "persistence",
            WARN,
            "no append-only file: a restart of the server loses tasks",
            "CONFIG SET appendonly yes, and in the server's config file",
            "off",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        says = "the append-only file cannot be written"
        return Check("persistence", BAD, says, "look at the server's disk", "failing")
    return Check("persistence", OK, "append-only file")


def _durability(info: dict[str, Any]) -> Iterator[Check]:
    """Whether the server can give what MESH_DURABILITY promises to everybody."""
    wanted = levels.of_mesh()
    if wanted is None:
        return
    lack = levels.server_of(info).lacks(wanted)
    if not lack:
        yield Check("durability", OK, f"every acknowledgement means {wanted}")
        return
    says = f"MESH_DURABILITY is {wanted}, which this server cannot give: {lack}"
    late = wanted.kind == levels.REPLICATED  # replicas come and go
    word, hint = ("replicas", "look at its replicas") if late else ("too little", "")
    yield Check("durability", BAD, says, hint, word)


def _memory(info: dict[str, Any], url: str) -> Check:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    # What the server weighs against its bound: not what it only holds for replicas.
    weighed = used - int(info.get("mem_not_counted_for_evict", 0))
    says = f"{used / 2**20:,.1f} MiB used"
    if most and weighed + _SEND_BYTES > most:
        return Check(
            "memory",
            BAD,
            f"{weighed / most:.0%} of maxmemory is used: new tasks are refused now",
            "raise maxmemory, or let agents work the backlog down",
            "full",
        )
    if most and weighed / most > _FILLING:
        return Check(
            "memory",
            WARN,
            f"{weighed / most:.0%} of maxmemory is used; at 100 % new tasks will be "
            "refused",
            "raise maxmemory, or let agents work the backlog down",
            "filling",
        )
    if most:
        return Check("memory", OK, f"{says} of {most / 2**20:,.0f} MiB")
    if url == announcement.read():  # this folder's own, beside what else runs here
        return Check("memory", OK, f"{says} (no bound)")
    return Check(
        "memory",
        WARN,
        f"{says} and no bound: the system may end the server when memory is out",
        "CONFIG SET maxmemory …, and in the server's config file",
        "unbounded",
    )
