"""The gateway to Ollama: a limit per principal, a cache, one call for equal requests.

seat = await ollama.generate(owner, prompt)      RateLimited, BusUnavailable
how = await seat.ready()                         or the errors of `upstream`
async for line in seat: …                        or `await ollama.whole(seat)`
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import orjson

from . import errors, ratelimit
from .conf import conf
from .gateway import answers, relay, upstream
from .gateway.flights import Flights, Route
from .gateway.prompts import Prompt
from .gateway.seats import Seat

_flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Flights] = (
    weakref.WeakKeyDictionary()
)


async def generate(owner: str, prompt: Prompt, *, fresh: bool = False) -> Seat:
    """A seat on the generation of this prompt; close it when done, or leaving.

    `owner` is the key of the principal: it pays, and only it gets what it caused to be
    kept, unless OLLAMA_CACHE_SHARED. Every request costs one token, also one that is
    answered from the cache: the limit is one on requests. `fresh` asks the model again.
    """
    wait_s = await ratelimit.atake(
        f"generate:{owner}", conf.OLLAMA_RATE_CAPACITY, conf.OLLAMA_RATE_REFILL_PER_S
    )
    if wait_s:
        raise errors.RateLimited(
            f"more than {conf.OLLAMA_RATE_CAPACITY:g} requests at once or "
            f"{conf.OLLAMA_RATE_REFILL_PER_S:g} a second",
            retry_after_s=wait_s,
        )
    digest = ""
    if prompt.is_cacheable() and not fresh:
        digest = prompt.digest("" if conf.OLLAMA_CACHE_SHARED else owner)
    loop = asyncio.get_running_loop()
    flights = _flights.get(loop) or _flights.setdefault(loop, Flights())
    return flights.board(
        Route(
            generate=lambda: upstream.generate(prompt.body()),
            recall=answers.recall,
            keep=answers.keep,
            digest=digest,
            board=relay.board,
        )
    )


async def whole(seat: Seat) -> dict[str, Any]:
    """The lines as the one object that Ollama answers without streaming."""
    pieces = [orjson.loads(line) for line in await seat.whole()]
    answer: dict[str, Any] = dict(pieces[-1])
    answer["response"] = "".join(piece.get("response", "") for piece in pieces)
    if thinking := "".join(piece.get("thinking", "") for piece in pieces):
        answer["thinking"] = thinking
    if logprobs := [each for piece in pieces for each in piece.get("logprobs", [])]:
        answer["logprobs"] = logprobs
    return answer


async def aclose() -> None:
    """Close the upstream connections of the running loop, before it ends."""
    await upstream.aclose()
