"""One generation of the model server, line by line.

The only room that talks to Ollama. It goes to OLLAMA_BASE_URL and nowhere else: no
redirect is followed, no proxy of the environment used, nothing a request says is part
of the URL. What the server says stays here too, unless it is a line of a generation:
its error texts may name hosts and files, so they go to the log and callers get ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

import orjson

from .. import errors
from ..conf import conf
from . import links
from .links import Answer

log = logging.getLogger(__name__)

_LOOK_S: Final = 10.0
_RETRY_AFTER_MOST_S: Final = 120.0
_LOGGED_MOST: Final = 500
_LOGGED_S: Final = 1.0  # the status says enough; what comes later is not waited for
# A line has a hundred bytes or so, whose sum is bounded. Those of a server gone mad may
# have one, and each costs us as much as any other. Beyond the tokens that may be asked.
_LINES_MOST: Final = 200_000
_BRACKETS_PLAIN: Final = 100  # with no more of them nothing is nested too deep to write
_TOO_LONG: Final = "the answer of the model is too long"
# What the pieces of an answer are joined by; anything else in a line is passed on.
_KINDS: Final[dict[str, type]] = {
    "response": str,
    "thinking": str,
    "logprobs": list,
    "message": dict,
    "content": str,
    "tool_calls": list,
}


async def generate(path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The lines of one generation, each a JSON object, the last one with `done` true.

    Lines come as the server wrote them, without the line break. Closing the generator
    closes the connection, upon which Ollama stops generating. Raises ModelNotFound,
    UpstreamRefused, UpstreamBusy, UpstreamTimeout or UpstreamError, also midway.
    """
    with _as_ours():
        until = asyncio.get_running_loop().time() + conf.OLLAMA_FIRST_LINE_S
        async with (
            _asked(path, body, until) as answer,
            aclosing(_lines(answer, until)) as lines,
        ):
            async for line in lines:
                done = _is_last(line) or _is_one_object(answer)
                yield line
                if done:
                    return
    raise errors.UpstreamError("the model server ended its answer midway")


async def look(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the server says of itself or its models, as one object; raises likewise."""
    with _as_ours():
        until = asyncio.get_running_loop().time() + _LOOK_S
        async with _asked(path, body, until) as answer:
            said = bytearray()
            while (part := await answer.more(until)) is not None:
                said += part
                _check_size(len(said))
        return _read(said)


async def aclose() -> None:
    """Close the connections of the running loop, before it ends."""
    links.close_all()
    await asyncio.sleep(0)  # lets them go before the loop may close


@contextlib.asynccontextmanager
async def _asked(
    path: str, body: dict[str, Any] | None, until: float
) -> AsyncIterator[Answer]:
    """The answer to a request that was accepted; `until` is for all that is read."""
    where = links.place(conf.OLLAMA_BASE_URL)
    sent = None if body is None else orjson.dumps(body)
    connect_s = conf.OLLAMA_CONNECT_S
    async with links.asked(where, path, sent, connect_s=connect_s, until=until) as made:
        if made.status != 200:
            await _refuse(made, str((body or {}).get("model")))
        yield made


def _is_one_object(answer: Answer) -> bool:
    """Whether the answer is no stream but complete as it is."""
    return answer.fields.get(b"content-type", b"").startswith(b"application/json")


async def _lines(answer: Answer, until: float) -> AsyncGenerator[bytes]:
    """Split by line breaks alone; an answer that is no stream is one line.

    The first one comes `until` then, each further one soon after the one before it.
    """
    loop, one_object = asyncio.get_running_loop(), _is_one_object(answer)
    read, count, rest = 0, 0, bytearray()
    while (part := await answer.more(until)) is not None:
        read += len(part)
        _check_size(read)
        rest += part
        if one_object or b"\n" not in part:
            continue
        count += part.count(b"\n")
        if count > _LINES_MOST:
            raise errors.UpstreamError(_TOO_LONG)
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line.strip():
                yield bytes(line.rstrip(b"\r"))
                until = loop.time() + conf.OLLAMA_BETWEEN_LINES_S
    if rest.strip():
        yield orjson.dumps(_read(rest)) if one_object else bytes(rest)


def _check_size(size: int) -> None:
    if size > conf.OLLAMA_ANSWER_MAX_BYTES:
        raise errors.UpstreamError(_TOO_LONG)


def _read(text: bytes | bytearray) -> dict[str, Any]:
    """The object that this is; ValueError for what is none or cannot be told on."""
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError("an answer that is no object")
    if text.count(b"[") + text.count(b"{") > _BRACKETS_PLAIN:
        try:
            orjson.dumps(value)  # which writes less deep than it reads
        except TypeError as exc:
            raise ValueError("an answer that is nested too deep") from exc
    return value


def _check_kinds(part: dict[str, Any]) -> None:
    for name, value in part.items():
        kind = _KINDS.get(name)
        # Null is none of them, as some servers say it.
        if kind is not None and value is not None and not isinstance(value, kind):
            raise ValueError(f"a line whose {name} is none")


def _is_last(line: bytes) -> bool:
    """Whether this line ends the answer; raises when it is an error instead."""
    piece = _read(line)
    _check_kinds(piece)
    _check_kinds(piece.get("message") or {})
    if piece.get("error") is not None:
        log.warning("the model server broke off: %.500r", piece["error"])
        raise errors.UpstreamError("the model server broke off with an error")
    return piece.get("done") is True


async def _refuse(answer: Answer, model: str) -> NoReturn:
    """Raise what a status other than 200 means."""
    status, said = answer.status, b""
    until = asyncio.get_running_loop().time() + _LOGGED_S
    with contextlib.suppress(links.Broken, TimeoutError):
        while len(said) <= _LOGGED_MOST and (part := await answer.more(until)):
            said += part
    log.warning("the model server answered %d: %r", status, said[:_LOGGED_MOST])
    if status == 404:
        raise errors.ModelNotFound(f"model {model!r} not found")
    if status in (400, 413, 422):
        raise errors.UpstreamRefused("the model server does not accept this request")
    if status in (429, 503):
        raise errors.UpstreamBusy(
            "the model server is busy, please try again",
            retry_after_s=_retry_after_s(answer),
        )
    if status in (408, 504):
        raise errors.UpstreamTimeout("the model server took too long")
    raise errors.UpstreamError("the model server failed")


def _retry_after_s(answer: Answer) -> float:
    text = answer.fields.get(b"retry-after", b"")
    asked = float(text) if text.isdigit() and len(text) < 9 else 1.0
    return min(max(asked, 1.0), _RETRY_AFTER_MOST_S)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """The boundary: what the network and its bytes can do leaves as our errors."""
    try:
        yield
    except TimeoutError as exc:
        raise errors.UpstreamTimeout("the model server took too long") from exc
    except links.Unreachable as exc:
        # Only here is it told where that was: who asked is not to know.
        where = links.place(conf.OLLAMA_BASE_URL)
        log.warning(
            "nothing answers at %s:%d (OLLAMA_BASE_URL): %s",
            *(where.host, where.port, exc),
        )
        raise errors.UpstreamError("the model server cannot be reached") from exc
    except links.Broken as exc:
        log.warning("the connection to the model server broke: %s", exc)
        raise errors.UpstreamError("the connection to the model server broke") from exc
    except ValueError as exc:
        log.warning("the model server cannot be used: %s", exc)
        raise errors.UpstreamError("the model server's answer is not usable") from exc
