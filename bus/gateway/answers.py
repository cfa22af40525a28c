"""Complete answers of a model, kept for a while for whoever asks the same again.

The cache is direct-mapped: an answer goes to the slot its digest falls on and takes the
place of the one before it. So it can never hold more than OLLAMA_CACHE_SLOTS answers of
OLLAMA_CACHE_ENTRY_MAX_BYTES, without an index that would have to be kept in step.

A cache that cannot be reached is an empty one: it delays an answer, never prevents it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import redis
from django.core.cache import cache
from django_redis.exceptions import CompressorError

from ..conf import conf

log = logging.getLogger(__name__)

# What a cache does that is away, full, or holds bytes somebody else wrote.
_AILING: Final = (redis.RedisError, OSError, CompressorError, ValueError)


@dataclass(frozen=True, slots=True)
class Answer:
    """The lines of a finished generation, and how long ago it was made."""

    lines: tuple[bytes, ...]
    age_s: float


def key(digest: str) -> str:
    """The key that is there where an answer may be kept under this digest.

    Mostly there is none, which the loop's own connection tells. Only what is there is
    worth the thread of `recall`, whose turn comes late where others want the processor.
    """
    made: str = cache.make_key(_slot(digest))
    return made


async def recall(digest: str) -> Answer | None:
    """The answer kept under this digest, None where there is none to be had."""
    slot = _slot(digest)
    try:
        # Not `aget`: it would run in the thread of whichever request began the flight,
        # which may be over by now.
        kept = await asyncio.to_thread(cache.get, slot)
    except _AILING as exc:
        log.warning("the answer cache cannot be read: %s", type(exc).__name__)
        return None
    match kept:
        case {"digest": str(of), "at": int(at), "text": str(text)} if of == digest:
            age_s = max(0.0, time.time() - at)
            return Answer(tuple(text.encode().split(b"\n")), age_s)
    return None


async def keep(digest: str, lines: Sequence[bytes]) -> None:
    """Keep a finished generation, unless it is too big or the cache is away."""
    size = sum(len(line) + 1 for line in lines)
    if size > conf.OLLAMA_CACHE_ENTRY_MAX_BYTES:
        return
    text = b"\n".join(lines).decode()
    kept = {"digest": digest, "at": int(time.time()), "text": text}
    try:
        await asyncio.to_thread(
            cache.set, _slot(digest), kept, timeout=conf.OLLAMA_CACHE_TTL_S
        )
    except _AILING as exc:
        log.warning("the answer cache cannot be written: %s", type(exc).__name__)


def _slot(digest: str) -> str:
    return f"ollama:{int(digest, 16) % conf.OLLAMA_CACHE_SLOTS}"
