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
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

import httpx2
import orjson

from .. import errors
from ..conf import conf

log = logging.getLogger(__name__)

_LOOK_S: Final = 10.0
_END_S: Final = 1.0  # for the end of an answer to come, behind its last line
_RETRY_AFTER_MOST_S: Final = 120.0
_LOGGED_MOST: Final = 500
# What the pieces of an answer are joined by; anything else in a line is passed on.
_KINDS: Final[dict[str, type]] = {
    "response": str,
    "thinking": str,
    "logprobs": list,
    "message": dict,
    "content": str,
    "tool_calls": list,
}

# Keyed weakly by loop: connections must never be used on another loop than their own.
_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = (
    weakref.WeakKeyDictionary()
)


async def generate(path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The lines of one generation, each a JSON object, the last one with `done` true.

    Lines come as the server wrote them, without the line break. Closing the generator
    closes the connection, upon which Ollama stops generating. Raises ModelNotFound,
    UpstreamRefused, UpstreamBusy, UpstreamTimeout or UpstreamError, also midway.
    """
    with _as_ours():
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(conf.OLLAMA_FIRST_LINE_S):
                call = _client().stream("POST", _url(path), json=body)
                response = await stack.enter_async_context(call)
                if response.status_code != 200:
                    await _refuse(response, str(body.get("model")))
                lines = await stack.enter_async_context(aclosing(_lines(response)))
                line = await anext(lines, None)
            while line is not None:
                done = _is_last(line) or _is_one_object(response)
                yield line
                if done:
                    await _finish(lines)
                    return
                async with asyncio.timeout(conf.OLLAMA_BETWEEN_LINES_S):
                    line = await anext(lines, None)
    raise errors.UpstreamError("the model server ended its answer midway")


async def look(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the server says of itself or its models, as one object; raises likewise."""
    method = "GET" if body is None else "POST"
    with _as_ours():
        async with asyncio.timeout(_LOOK_S):
            async with _client().stream(method, _url(path), json=body) as response:
                if response.status_code != 200:
                    await _refuse(response, str((body or {}).get("model")))
                said = bytearray()
                async for chunk in response.aiter_raw():
                    said += chunk
                    _check_size(len(said))
        answer = orjson.loads(said)
        if not isinstance(answer, dict):
            raise ValueError("an answer that is no object")
    return answer


async def aclose() -> None:
    """Close the connections of the running loop, before it ends."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()


def _client() -> httpx2.AsyncClient:
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None or client.is_closed:
        client = _clients[loop] = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            # Uncompressed: lines leave the moment they come, and nothing can swell.
            headers={"Accept-Encoding": "identity", "User-Agent": "task-mesh"},
            # All other waiting is timed here, by lines instead of by packets.
            timeout=httpx2.Timeout(None, connect=conf.OLLAMA_CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8),
        )
    return client


def _url(path: str) -> str:
    base = httpx2.URL(conf.OLLAMA_BASE_URL)
    if base.scheme not in ("http", "https") or not base.host:
        raise httpx2.InvalidURL("OLLAMA_BASE_URL is not http://host:port")
    return f"{str(base).rstrip('/')}{path}"


def _is_one_object(response: httpx2.Response) -> bool:
    """Whether the answer is no stream but complete as it is."""
    kind = str(response.headers.get("content-type", ""))
    return kind.startswith("application/json")


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """Split by line breaks alone; an answer that is no stream is one line."""
    one_object = _is_one_object(response)
    read, rest = 0, bytearray()
    async for chunk in response.aiter_raw():
        read += len(chunk)
        _check_size(read)
        rest += chunk
        if one_object or b"\n" not in chunk:
            continue
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line.strip():
                yield bytes(line.rstrip(b"\r"))
    if rest.strip():
        yield orjson.dumps(orjson.loads(rest)) if one_object else bytes(rest)


async def _finish(lines: AsyncGenerator[bytes]) -> None:
    """Read to the end of a complete answer: only then is its connection used again.

    Whatever comes instead of the end costs the connection, never the answer.
    """
    with contextlib.suppress(
        TimeoutError, httpx2.HTTPError, errors.UpstreamError, ValueError
    ):
        async with asyncio.timeout(_END_S):
            await anext(lines, None)


def _check_size(size: int) -> None:
    if size > conf.OLLAMA_ANSWER_MAX_BYTES:
        raise errors.UpstreamError("the answer of the model is too long")


def _is_last(line: bytes) -> bool:
    """Whether this line ends the answer; raises when it is an error instead."""
    piece = orjson.loads(line)
    if not isinstance(piece, dict):
        raise ValueError("a line that is no object")
    for part in (piece, piece.get("message") or {}):
        for name, kind in _KINDS.items():
            if not isinstance(part.get(name, kind()), kind):
                raise ValueError(f"a line whose {name} is none")
    if "error" in piece:
        log.warning("the model server broke off: %.500r", piece["error"])
        raise errors.UpstreamError("the model server broke off with an error")
    return piece.get("done") is True


async def _refuse(response: httpx2.Response, model: str) -> NoReturn:
    """Raise what a status other than 200 means."""
    status = response.status_code
    said = b""
    with contextlib.suppress(httpx2.HTTPError):
        async for chunk in response.aiter_raw():
            said += chunk
            if len(said) > _LOGGED_MOST:
                break
    log.warning("the model server answered %d: %r", status, said[:_LOGGED_MOST])
    if status == 404:
        raise errors.ModelNotFound(f"model {model!r} not found")
    if status in (400, 413, 422):
        raise errors.UpstreamRefused("the model server does not accept this request")
    if status in (429, 503):
        raise errors.UpstreamBusy(
            "the model server is busy, please try again",
            retry_after_s=_retry_after_s(response),
        )
    if status in (408, 504):
        raise errors.UpstreamTimeout("the model server took too long")
    raise errors.UpstreamError("the model server failed")


def _retry_after_s(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    asked = float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1.0
    return min(max(asked, 1.0), _RETRY_AFTER_MOST_S)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """The boundary: what the network and its bytes can do leaves as our errors."""
    try:
        yield
    except TimeoutError as exc:
        raise errors.UpstreamTimeout("the model server took too long") from exc
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
        raise errors.UpstreamError("the model server cannot be reached") from exc
    except httpx2.HTTPError as exc:
        raise errors.UpstreamError("the connection to the model server broke") from exc
    except (httpx2.InvalidURL, ValueError) as exc:
        log.warning("the model server cannot be used: %s", exc)
        raise errors.UpstreamError("the model server's answer is not usable") from exc
