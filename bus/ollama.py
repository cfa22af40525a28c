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

from . import connection, errors, ratelimit
from .conf import conf
from .gateway import answers, mirrored, relay, reports, upstream
from .gateway.flights import Flights, Route
from .gateway.prompts import Prompt
from .gateway.seats import Seat

_flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Flights] = (
    weakref.WeakKeyDictionary()
)


async def generate(
    owner: str,
    prompt: Prompt,
    *,
    name: str = "",
    fresh: bool = False,
    limited: bool = True,
) -> Seat:
    """A seat on the generation of this prompt; close it when done, or leaving.

    `owner` is the key of the principal, `name` what people call it: it pays, and only
    it gets what it caused to be kept, unless OLLAMA_CACHE_SHARED. Every request costs
    one token, also one that is answered from the cache: the limit is one on requests.
    `fresh` asks the model again.
    An agent, whose concurrency is its limit, is not `limited` once more.
    """
    digest = ""
    if prompt.is_cacheable() and not fresh:
        digest = prompt.digest("" if conf.OLLAMA_CACHE_SHARED else owner)
    loop = asyncio.get_running_loop()
    flights = _flights.get(loop) or _flights.setdefault(loop, Flights())
    route = Route(
        generate=lambda: upstream.generate(prompt.path, prompt.body()),
        recall=answers.recall,
        keep=answers.keep,
        digest=digest,
        board=lambda digest: relay.board(digest, answers.key(digest)),
        about=reports.About(name or owner, prompt.model, prompt.size()),
    )
    # Who generates is asked while the bucket is: one way to the server, not two.
    seat = flights.board(route, paid=not limited)
    if limited:
        try:
            wait_s = await _pay(owner)
        except BaseException:
            seat.refuse()
            raise
        if wait_s:
            seat.refuse()
            raise await _limited(wait_s)
        seat.pay()
    return seat


async def _pay(owner: str) -> float:
    """Take one request from the principal's bucket, else seconds until it has one."""
    [wait_s] = await ratelimit.atake_each(
        f"generate:{owner}",
        conf.OLLAMA_RATE_CAPACITY,
        conf.OLLAMA_RATE_REFILL_PER_S,
        1,
        client=connection.awire(),
    )
    return wait_s


async def _limited(wait_s: float) -> errors.RateLimited:
    await reports.came("", reports.Came({"limited": 1}))
    return errors.RateLimited(
        f"more than {conf.OLLAMA_RATE_CAPACITY:g} requests at once or "
        f"{conf.OLLAMA_RATE_REFILL_PER_S:g} a second",
        retry_after_s=wait_s,
    )


async def whole(seat: Seat) -> dict[str, Any]:
    """The lines as the one object that Ollama answers without streaming."""
    pieces = [orjson.loads(line) for line in await seat.whole()]
    answer: dict[str, Any] = dict(pieces[-1])
    if "embeddings" in answer:
        return answer  # these are never in pieces
    said = (piece.get("message") for piece in pieces)
    spoken = [message for message in said if message is not None]
    if spoken:
        answer["message"] = {"role": "assistant", **spoken[-1], "content": ""}
        _join(answer["message"], spoken, "content", "thinking", "tool_calls")
    else:
        answer["response"] = ""
        _join(answer, pieces, "response", "thinking", "tool_calls")
    _join(answer, pieces, "logprobs")
    return answer


def _join(answer: dict[str, Any], pieces: list[dict[str, Any]], *names: str) -> None:
    """Texts and lists of the pieces, one behind the other."""
    for name in names:
        parts = [piece[name] for piece in pieces if piece.get(name)]
        if parts and isinstance(parts[0], str):
            answer[name] = "".join(parts)
        elif parts:
            answer[name] = [each for part in parts for each in part]


async def models(*, loaded: bool = False) -> dict[str, Any]:
    """The models that may be asked here, or those of them that are loaded now.

    Like the other looks: the errors of `upstream`; who asks how often is not counted.
    """
    path = "/api/ps" if loaded else "/api/tags"
    return mirrored.models(await upstream.look(path))


async def show(asked: dict[str, Any]) -> dict[str, Any]:
    """What describes the model that `mirrored.show` read from a request."""
    return mirrored.shown(await upstream.look("/api/show", asked))


async def version() -> dict[str, Any]:
    """Which version of Ollama answers."""
    return mirrored.version(await upstream.look("/api/version"))


# How the last hour went, what runs now in any process, and how to end one of those.
figures = reports.figures
running = reports.running
stop = reports.stop


async def aclose() -> None:
    """Close the upstream connections of the running loop, before it ends."""
    await upstream.aclose()
