"""Results as they come, as server-sent events: `GET results/stream`.

Django keeps a thread for every request it has begun, so a stream is told in front of
it: the view says whether there may be one and how it begins, and from then on it is
told by the feed, which all readers of this process share. An event's id is the cursor
behind it: whoever comes back with it as Last-Event-ID misses nothing, in any process.

result  a row of `GET results`              gap  `missed` rows that nobody will get
live    once: from here on nothing is old   bus  whether Redis answers
end     why this ends; with a `retry:`, like the beginning
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import orjson

import bus
from bus import accounts, databases, errors, feed, roles
from bus.conf import conf
from bus.home.heads import ABORT
from bus.live.following import Following, Pace
from bus.live.frames import Frame
from bus.live.window import RESULTS, Item

from . import exceptions, shapes, waiting
from .asgi import App, Message, Receive, Send
from .head import refusing
from .problems import Problem, later
from .renderers import FastJSONRenderer
from .schema import PREFIX
from .waiting import AGAIN

WISHES: Final = "mesh.streams"  # in the scope: where the view puts what it allows

_PATH: Final = f"{PREFIX}/results/stream"
_BEAT_S: Final = 15.0  # of silence; proxies cut what is silent for 30 s or more
_SEND_S: Final = 10.0  # a client that takes no bytes for so long has gone, or is stuck
_LAST_S: Final = 1.0  # for the last words
_FULL_S: Final = 5.0  # until somebody with too many streams may try again
_BEAT: Final = b": nothing new\n\n"
# Up to 10,000 rows a second, in pages that fit into memory; all that Redis still has.
_PACE: Final = Pace(frames_per_s=100, rows_per_frame=100, catch_up_rows=None)
_JSON: Final = FastJSONRenderer()

# How many streams of this process each principal has open.
open_streams: Final[Counter[str]] = Counter()


@dataclass(frozen=True, slots=True)
class Wish:
    """A stream that may be: of which topic, from behind which cursor (None: now)."""

    topic: str
    after: str | None
    who: roles.Principal


def retry() -> bytes:
    """When to come back once a stream has ended: not all readers in one moment."""
    return b"retry: %d\n" % random.randint(500, 2_000)


def streamed(app: App) -> App:
    """The ASGI app, whose streams go on once they have begun."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _PATH:
            await app(scope, receive, send)
            return
        wishes: list[Wish] = []
        answer = await waiting.answer_of(app, {**scope, WISHES: wishes})
        if not wishes or scope["method"] != "GET" or answer[0]["status"] != 200:
            for message in answer:
                await send(message)
            return
        [wish] = wishes
        if open_streams[wish.who.key] >= conf.FEED_STREAMS_PER_USER:
            await _refuse(scope, send, _too_many(wish.who))
            return
        open_streams[wish.who.key] += 1
        try:
            out = _Out(scope, receive, send, answer)
            await _Stream(app, scope, wish, out).run(receive)
        finally:
            open_streams[wish.who.key] -= 1
            if not open_streams[wish.who.key]:
                del open_streams[wish.who.key]

    return outer


def _too_many(who: roles.Principal) -> Problem:
    most = conf.FEED_STREAMS_PER_USER
    said = f"{who.name} has {most} streams open, which is the most"
    return later("too_many_streams", said, _FULL_S)


class _Out:
    """What is sent: head and beginning as the view gave them, then what comes."""

    def __init__(
        self, scope: Any, receive: Receive, send: Send, answer: list[Message]
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        start, *parts = answer
        # The view's answer has an end, and says so.
        kept = [pair for pair in start["headers"] if pair[0].lower() != _LENGTH]
        self._start = {**start, "headers": kept}
        self._first = b"".join(part.get("body", b"") for part in parts)
        self.begun = False

    async def begin(self) -> None:
        """Send the head, which is 200, and when to come back."""
        self.begun = True
        await asyncio.wait_for(self._send(self._start), _SEND_S)
        await self.say(self._first)

    async def say(self, text: bytes) -> None:
        """Send some events; TimeoutError if nobody takes them."""
        part = {"type": "http.response.body", "body": text, "more_body": True}
        await asyncio.wait_for(self._send(part), _SEND_S)

    async def end(self, code: str, detail: str) -> None:
        """Say why, then end. A peer that is gone, or takes nothing, hears neither."""
        told = _JSON.render({"code": code, "detail": detail})
        try:
            async with asyncio.timeout(_LAST_S):
                if not self.begun:
                    await self.begin()
                await self.say(retry() + _event("end", told))
                await self._send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            await _hang_up(self._scope, self._receive)

    async def refuse(self, problem: Problem) -> None:
        """The problem instead of a stream, which has not begun."""
        await _refuse(self._scope, self._send, problem)


_LENGTH: Final = b"content-length"


class _Stream:
    """One stream: told until its reader, its right to read or the process goes."""

    def __init__(self, app: App, scope: Any, wish: Wish, out: _Out) -> None:
        self._app, self._scope, self._wish, self._out = app, scope, wish, out
        self._key = bus.result_stream(wish.topic)
        self._who = wish.who
        self._live = False

    async def run(self, receive: Receive) -> None:
        """Whichever of these ends first tells how the stream ends."""
        closing = feed.shared().closing
        telling = asyncio.create_task(self._tell(), name="mesh-stream")
        lost = asyncio.create_task(self._lost())
        stop = asyncio.create_task(closing.wait())
        gone = asyncio.create_task(waiting.gone(receive))
        work: list[asyncio.Task[Any]] = [telling, lost, stop, gone]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [each for each in work if each.done()]
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        if gone in ended:
            return
        if telling in ended:
            await self._failed(telling)
        elif lost in ended:
            await self._out.end(*lost.result())
        else:
            await self._out.end("stopping", "the server stops; come back at once")

    async def _failed(self, telling: asyncio.Task[None]) -> None:
        try:
            telling.result()
        except errors.BusUnavailable as exc:
            problem = exceptions.problem_of(exc)
            assert problem is not None
            if self._out.begun:
                await self._out.end(problem.code, problem.detail)
            else:
                problem.extra.pop("outcome", None)  # a read writes nothing
                await self._out.refuse(problem)
        except TimeoutError:
            said = f"nothing was taken for {_SEND_S:g} s"
            await self._out.end("too_slow", said)

    async def _tell(self) -> None:
        """Tell what comes; BusUnavailable, or TimeoutError where nobody takes it."""
        after = {self._key: self._wish.after} if self._wish.after else {}
        following = feed.shared().subscribe(
            [self._wish.topic], after, kinds=[RESULTS], pace=_PACE
        )
        async with following:
            await self._out.begin()
            coming = asyncio.ensure_future(anext(following))
            try:
                while True:
                    # Waited for, not cancelled: a beat must not end what is read.
                    await asyncio.wait([coming], timeout=_BEAT_S)
                    if not coming.done():
                        await self._out.say(_BEAT)
                        continue
                    text = self._text(coming.result(), following)
                    coming = asyncio.ensure_future(anext(following))
                    if text:
                        await self._out.say(text)
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    def _text(self, frame: Frame, following: Following) -> bytes:
        """A frame as events; empty where there is nothing to tell."""
        if frame.op == RESULTS:
            return b"".join(map(_result, frame.items))
        if frame.op == "gap":
            told = {"topic": self._wish.topic, "missed": frame.facts["missed"]}
            return _event("gap", orjson.dumps(told), frame.facts["after"])
        if frame.op == "live" and not self._live:
            self._live = True
            told = {"topic": self._wish.topic}
            return _event("live", orjson.dumps(told), following.cursor(self._key))
        return _event("bus", orjson.dumps(frame.facts)) if frame.op == "bus" else b""

    async def _lost(self) -> tuple[str, str]:
        """Code and sentence, once whoever reads may not any more."""
        while True:
            await asyncio.sleep(conf.FEED_RECHECK_S)
            if await self._is_known():
                continue
            wishes: list[Wish] = []
            again = {**self._scope, AGAIN: True, WISHES: wishes}
            # A request that was begun is let end, also where nobody waits for it.
            asked = asyncio.ensure_future(waiting.answer_of(self._app, again))
            answer = await asyncio.shield(asked)
            for wish in wishes:
                self._who = wish.who
            if answer[0]["status"] in (401, 403):
                body = b"".join(part.get("body", b"") for part in answer[1:])
                document = orjson.loads(body)
                return document["code"], document["detail"]

    async def _is_known(self) -> bool:
        """Whether a token stands for the same principal; sessions are asked anew."""
        headers = dict(self._scope["headers"])
        scheme, _, text = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        try:
            return await accounts.aprincipal_of(text.strip()) == self._who
        except databases.AWAY:
            return True  # nobody can tell now; the next look may


async def _hang_up(scope: Any, receive: Receive) -> None:
    """End the connection of who takes nothing: an answer without an end is a mistake
    to a web server, and what he has not taken would stay in its memory."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await waiting.gone(receive)


def _result(item: Item) -> bytes:
    return _event("result", item.made("event", _row).encode(), item.cursor)


def _row(item: Item) -> str:
    """The row of `GET results`, made once for all who follow."""
    row = shapes.result_row(item.topic, item.entry_id, item.row())
    return _JSON.render(row).decode()


def _event(name: str, data: bytes, cursor: str | None = None) -> bytes:
    """One event; JSON is one line, whatever it holds."""
    mark = b"" if cursor is None else b"id: %b\n" % cursor.encode()
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), mark, data)


async def _refuse(scope: Any, send: Send, problem: Problem) -> None:
    body = orjson.dumps(problem.document())
    await send(refusing(scope, problem, len(body)))
    await send({"type": "http.response.body", "body": body})
