"""Flights over all processes: of equal requests one leads, the others follow it.

Who leads holds a key that expires unless it gives signs of life, on the server's clock;
once somebody follows it tells its lines to a list. Who follows looks there. A leader
that dies stops giving signs, and the first of its followers to notice leads instead.

Without Redis everybody leads alone: more upstream calls, never an answer less.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import orjson
import redis

from .. import connection, errors, scripts, verbs
from . import keys

log = logging.getLogger(__name__)

# Three seconds without a sign: a process that stands still that long had better not be
# waited for. Two then generate, which costs an answer of the model and nothing else.
_LEASE_MS: Final = 3_000
_SIGN_S: Final = 0.25
_LOOK_S: Final = 0.05  # also the most that a followed line comes late
_GONE_MS: Final = 1_000  # twenty looks that did not come
_STAY_MS: Final = 10_000
_LINES_MOST: Final = 500
_BYTES_MOST: Final = 256 * 1024  # in one call: a script holds up the server
_ENDED_MS: Final = 5_000  # a look at the cache takes no longer, or fails
_RETRY_S: Final = 1.0
# The last of the lines that are told: how it ended. JSON never begins like this.
_ENDED: Final = b"."
_ENDS: Final = {
    kind.code: kind
    for kind in (
        errors.UpstreamError,
        errors.UpstreamTimeout,
        errors.UpstreamRefused,
        errors.ModelNotFound,
    )
}


class LeaderLost(Exception):
    """Who led has died, or gave up without a word: board again."""


class Lead:
    """A flight that this process leads; without an id alone, known to nobody."""

    def __init__(
        self, digest: str = "", leader: str = "", *, is_next: bool = False
    ) -> None:
        self.is_next = is_next  # one ended just before: its answer may be kept by now
        self._keys = keys.flight_keys(digest, leader)
        self._leader = leader
        self._told = 0
        self._followed = False

    @property
    def is_alone(self) -> bool:
        """Whether no other process can know of it."""
        return not self._leader

    async def accompany(
        self, lines: list[bytes], news: Callable[[], asyncio.Event]
    ) -> None:
        """Give signs of life, and tell the lines as they come, until cancelled."""
        came, told = news(), 0
        while self._leader:
            if not told and self._followed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SIGN_S):
                        await came.wait()
            elif not told:
                await asyncio.sleep(_SIGN_S)
            came = news()  # before the look: what comes from here on is seen next time
            told = await self._tell(lines)

    async def land(self, lines: list[bytes], error: Exception | None) -> None:
        """End it; who follows has every line by then, and learns how it ended."""
        whole = [*lines, _ending(error)]
        while self._leader and not await self._ended(len(whole)):
            self._followed = True
            while self._leader and self._told < len(whole):
                await self._tell(whole)

    async def abandon(self) -> bool:
        """End it unless somebody follows; who is alone ends at once."""
        return self.is_alone or await self._ended(-1)

    async def _tell(self, lines: list[bytes]) -> int:
        """A sign of life, with what was not told yet; how many lines that were."""
        some = _some(lines, self._told) if self._followed else []
        args = [self._leader, _LEASE_MS, _STAY_MS, self._told, *some]
        reply = await self._run("relay", args)
        if reply == -1:
            self._leader = ""  # we stood still for too long: another leads
        self._followed = reply == 1
        self._told += len(some)
        return len(some)

    async def _ended(self, total: int) -> bool:
        reply = await self._run("land", [self._leader, total, _GONE_MS, _ENDED_MS])
        ended = bool(reply != 0)
        if ended:
            self._leader = ""
        return ended

    async def _run(self, verb: str, args: list[Any]) -> Any:
        try:
            return await _run(verb, args, self._keys)
        except errors.BusError as exc:
            log.warning("equal requests elsewhere are not told: %s", exc)
            self._leader = ""
            return None


class Follow:
    """A flight that another process leads: iterate over its lines."""

    def __init__(self, digest: str, leader: str) -> None:
        self._keys = keys.flight_keys(digest, leader)
        self._leader = leader

    async def lines(self) -> AsyncGenerator[bytes]:
        """Each line as it is told; the leader's error, or LeaderLost."""
        known = 0
        while True:
            args = [self._leader, known, _LINES_MOST]
            try:
                leads, *told = await _run("follow", args, self._keys)
            except errors.BusError as exc:
                raise LeaderLost from exc
            for text in told:
                line = text.encode()
                if line.startswith(_ENDED):
                    _raise(line)
                    return
                yield line
            known += len(told)
            if not told:
                if not leads:
                    raise LeaderLost
                await asyncio.sleep(_LOOK_S)


Boarded = tuple[Lead | Follow, bool]


async def board(digest: str, kept_at: str) -> Boarded:
    """Lead the flight of this digest, or follow who does; whether an answer may be
    kept already, under the key `kept_at`."""
    own = os.urandom(16).hex()
    args, names = [own, _LEASE_MS], keys.flight_keys(digest, own)[:1]
    try:
        # Who is cancelled in here may leave a lead behind; it ends by itself.
        reply, there = await _with_look(args, names, kept_at)
        leader, ended = reply
    except errors.BusError as exc:
        log.warning("equal requests elsewhere are not known: %s", exc)
        return Lead(), True
    if leader != own:
        return Follow(digest, str(leader)), there
    return Lead(digest, own, is_next=bool(ended)), there


async def _with_look(args: list[Any], names: list[str], key: str) -> tuple[Any, bool]:
    """The reply of `board`, and whether the key is there: one way to the server."""
    ask = verbs.command("board", "", args, names)
    with contextlib.suppress(redis.RedisError, OSError):
        reply, there = await connection.awire().ask_all(ask, ("EXISTS", key))
        if not isinstance(reply, Exception):
            return reply, there != 0
    # The server does not know the script yet, or not us any more.
    return await _run("board", args, names), True


async def alone(digest: str) -> Boarded:
    """Lead whatever anybody else does."""
    return Lead(), True


async def _run(verb: str, args: list[Any], names: list[str]) -> Any:
    wire = connection.awire()
    return await scripts.arun(verb, "", args, names, client=wire, retry_s=_RETRY_S)


def _some(lines: list[bytes], start: int) -> list[bytes]:
    """As many lines as go in one call, one at least."""
    size, end = 0, start
    while end < len(lines) and end - start < _LINES_MOST and size < _BYTES_MOST:
        size += len(lines[end])
        end += 1
    return lines[start:end]


def _ending(error: Exception | None) -> bytes:
    """How a flight ended, as the last of its lines; of a bug only that there is one."""
    if error is None:
        return _ENDED
    told: dict[str, Any] = {"code": errors.UpstreamError.code}
    told["said"] = "the generation broke off"
    if isinstance(error, errors.UpstreamError):
        told = {"code": error.code, "said": str(error)}
    if isinstance(error, errors.UpstreamBusy):
        told["facts"] = {"retry_after_s": error.retry_after_s, **error.facts}
    return _ENDED + orjson.dumps(told)


def _raise(line: bytes) -> None:
    """The error of an ending, if it is one."""
    if line == _ENDED:
        return
    told = orjson.loads(line[len(_ENDED) :])
    if told["code"] == errors.UpstreamBusy.code:
        raise errors.UpstreamBusy(told["said"], **told["facts"])
    raise _ENDS[told["code"]](told["said"])
