"""The socket of the live feed, `/ws/feed`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any, Final

import orjson
from channels.generic.websocket import AsyncWebsocketConsumer

from bus import databases, errors, feed, roles
from bus.conf import conf
from bus.live import window
from bus.live.following import Following
from bus.live.frames import Frame
from bus.live.polls import Poll
from bus.live.window import Item
from dashboard import painting, resume, viewers
from dashboard.painting import Painter
from dashboard.queries import Standing
from dashboard.resume import Refused, Resume
from dashboard.topic_page import TopicNow
from dashboard.watched import Sieve

log = logging.getLogger(__name__)

_FIRST_FRAME_S = 10.0
_SEND_S = 10.0  # a client that takes no bytes for so long has gone, or is too slow
_SLICE: Final = 10  # rows read for a filter without a pause
_STANDING: Final = "standing"
_ONE_TOPIC: Final = painting.TOPIC
_OF_PAGES: Final = (painting.SAYS, painting.BADGE)
_sieve: Final = Sieve()  # of all sockets of this process


class _Left(Exception):
    """The client hung up while something was sent to it."""


class FeedConsumer(AsyncWebsocketConsumer):
    """One socket: who it is, what it asked for, and then frames until it goes.

    Everything happens in one task, so there is one place where it can end.
    """

    _task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Accept first: only an open socket can be told a close code."""
        await self.accept()
        loop = asyncio.get_running_loop()
        self._asked: asyncio.Future[str | None] = loop.create_future()
        self._task = loop.create_task(self._life(), name="mesh-socket")

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """The first frame says what is wanted; there is no second one."""
        if not self._asked.done():
            self._asked.set_result(text_data)
        elif self._task is not None and not self._task.done():
            self._task.cancel()
            detail = "after the first frame nothing is expected; open another socket"
            await self._end(Refused("invalid_frame", detail, resume.BAD_FRAME))

    async def disconnect(self, code: int) -> None:
        """End the task, whatever it waits for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _life(self) -> None:
        try:
            principal = await self._reader()
            if not viewers.enter(principal):
                most = conf.FEED_SOCKETS_PER_USER
                detail = f"{principal.name} has {most} sockets open, which is the most"
                raise Refused("too_many_sockets", detail, resume.TOO_MANY)
            try:
                await self._serve(principal)
            finally:
                viewers.leave(principal)
        except Refused as exc:
            await self._end(exc)
        except _Left:
            pass  # nobody is there to be told
        except errors.BusUnavailable as exc:
            # What Redis says names hosts and folders: those are for the log.
            detail = "Redis does not answer, or refuses for now; connect again"
            await self._end(Refused(exc.code, detail, resume.TRY_LATER))
        except databases.AWAY:
            detail = "the mesh's database, where its accounts are, does not answer"
            await self._end(Refused("database_unavailable", detail, resume.TRY_LATER))
        except Exception:
            log.exception("a live socket failed")
            detail = "a mistake of ours; it is in the server's log"
            await self._end(Refused("internal_error", detail, 1011))

    async def _reader(self) -> roles.Principal:
        """Whose socket it is, if they may read."""
        principal = await viewers.aviewer(self.scope)
        if principal is None:
            detail = "sign in, or send a token: Authorization: Bearer …"
            raise Refused("not_authenticated", detail, resume.SIGN_IN)
        if not principal.may(roles.READ):
            role = principal.role or "nobody"
            detail = f"the role {role} does not read; ask an admin for another one"
            raise Refused("forbidden", detail, resume.FORBIDDEN)
        return principal

    async def _serve(self, principal: roles.Principal) -> None:
        try:
            text = await asyncio.wait_for(self._asked, _FIRST_FRAME_S)
        except TimeoutError:
            detail = f"no resume frame within {_FIRST_FRAME_S:g} s"
            raise Refused("no_resume", detail, resume.NO_FRAME) from None
        wish = resume.parse(text, principal)
        # Whichever ends first tells how the socket ends.
        work = [
            asyncio.create_task(self._tell(principal, wish)),
            asyncio.create_task(self._recheck(principal)),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in work:
                each.cancel()
            await asyncio.wait(work)

    async def _recheck(self, principal: roles.Principal) -> None:
        """End the socket when it is no longer this reader's."""
        while True:
            await asyncio.sleep(conf.FEED_RECHECK_S)
            try:
                same = await self._reader() == principal
            except databases.AWAY:
                continue  # nobody can tell now; the next look may
            if not same:
                detail = "what you may see has changed; connect again"
                raise Refused("role_changed", detail, resume.FORBIDDEN)

    async def _tell(self, principal: roles.Principal, wish: Resume) -> None:
        painter = painting.shared()
        wants_rows = wish.regions.intersection(resume.ROWS)
        teller = _Teller(principal, wish, painter)
        follow = feed.shared().subscribe(
            wish.topics if wants_rows else [],
            wish.after,
            may=principal.may_topic,
            polls=_polls(wish, painter),
            kinds=wants_rows,
        )
        with _sieve.watching(wish.only):
            async with follow as following:
                async for frame in following:
                    await self._forward(following, await teller.texts(frame))

    async def _forward(self, following: Following, texts: list[str]) -> None:
        for nth, text in enumerate(texts):
            if nth:
                following.charge()
            await self._say(text)

    async def _say(self, text: str) -> None:
        try:
            await asyncio.wait_for(self.send(text), _SEND_S)
        except TimeoutError:
            detail = f"nothing was taken for {_SEND_S:g} s"
            raise Refused("too_slow", detail, resume.TOO_MANY) from None
        except OSError as exc:  # what servers raise for a client that hung up
            raise _Left from exc

    async def _end(self, why: Refused) -> None:
        """Say why, then close. A peer that is gone, or takes nothing, hears neither."""
        told = {"op": "error", "code": why.code, "detail": why.detail}
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(1):
                await self.send(orjson.dumps(told).decode())
                await self.close(why.close)


def _polls(wish: Resume, painter: Painter) -> dict[str, Poll]:
    """The snapshots that a socket needs."""
    polls = {}
    if wish.regions.intersection(painting.REGIONS):
        polls[_STANDING] = painter.standing
    if painting.TOPIC in wish.regions:
        (name,) = wish.topics or ("",)
        polls[_ONE_TOPIC] = painter.topic(name)
    return polls


class _Teller:
    """Turns frames of the feed into texts for one socket."""

    def __init__(
        self, principal: roles.Principal, wish: Resume, painter: Painter
    ) -> None:
        self._principal, self._wish, self._painter = principal, wish, painter
        self._last: dict[str, str] = {}

    async def texts(self, frame: Frame) -> list[str]:
        """None, one, or one for each region that changed."""
        if frame.op == _STANDING:
            regions = [name for name in painting.REGIONS if name in self._wish.regions]
            return await self._changed(frame.facts[_STANDING], regions)
        if frame.op == _ONE_TOPIC:
            return self._topic(frame.facts[_ONE_TOPIC])
        if frame.op == window.RESULTS and self._wish.only.given:
            # With no row left it still tells how far it is, for a resume.
            frame = replace(frame, items=await self._only(frame.items))
        if frame.items and self._wish.html:
            role = self._principal.role
            await self._painter.rows(frame.items, role)
            return [frame.text(lambda item: painting.row(item, role))]
        return [frame.text()]

    async def _only(self, items: list[Item]) -> list[Item]:
        """The results that this reader watches."""
        found = []
        for nth, item in enumerate(items):
            if await _sieve.passes(item, self._wish.only):
                found.append(item)
            if nth % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)  # others wait
        return found

    def _topic(self, now: TopicNow) -> list[str]:
        """What changed of the one topic; null parts or facts once it is deleted."""
        told: dict[str, Any] = {"op": painting.TOPIC}
        if not now.facts:
            told["parts" if self._wish.html else "row"] = None
            return [orjson.dumps(told).decode()]
        if not self._wish.html:
            agents = [*map(self._principal.shown, now.facts["agents"])]
            return [orjson.dumps({**told, **now.facts, "agents": agents}).decode()]
        parts = {
            name: html
            for name, html in now.parts.items()
            if self._last.get(f"topic-{name}") != html
        }
        self._last |= {f"topic-{name}": html for name, html in parts.items()}
        return [orjson.dumps({**told, "parts": parts}).decode()] if parts else []

    async def _changed(self, now: Standing, regions: list[str]) -> list[str]:
        found = []
        for name in regions:
            if self._wish.html:
                html = await self._painter.region(now, name, self._wish.most)
                text = orjson.dumps({"op": name, "html": html}).decode()
            else:
                text = self._region(now, name)
            if text and self._last.get(name) != text:
                self._last[name] = text
                found.append(text)
        return found

    def _region(self, now: Standing, name: str) -> str:
        """A snapshot as JSON, of the topics this reader asked for and may see."""
        may, asked = self._principal.may_topic, self._wish.topics
        told: dict[str, Any] = {"op": name}
        if name == painting.TOPICS:
            told["topics"] = [
                row
                for row in now.topics
                if may(row["topic"]) and (asked is None or row["topic"] in asked)
            ]
        elif name == painting.AGENTS:
            told["agents"] = [*map(self._principal.shown, now.agents)]
        elif name in _OF_PAGES or self._principal.topics:
            return ""  # parts of a page; sums over topics of others
        else:
            told["totals"] = now.totals
        return orjson.dumps(told).decode()
