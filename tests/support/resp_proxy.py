"""A proxy that speaks Redis' protocol, so that it can lose the reply to one command.

It reads whole requests, hands them on, and lets a `fate` decide about each: its reply
may be lost with the connection (the server has done it, the client never learns), or it
may be sent twice. A proxy of bytes cannot do that: it does not know which of them
answer what.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis

from bus import verbs
from tests.support import tls

PASS: Final = "pass"
LOSE: Final = "lose"  # executed; connection cut in front of the reply
TWICE: Final = "twice"  # executed twice in a row; the client sees the first reply


@dataclass(frozen=True)
class Request:
    """One command on its way; `verb` is the script it calls, or empty."""

    words: tuple[Any, ...]
    verb: str
    number: int  # of this verb, from 1; of all script calls for `calls`
    calls: int


Fate = Callable[[Request], str]


def each_passes(request: Request) -> str:
    """No harm to anybody."""
    return PASS


class RespProxy:
    """Stands before a server on a port of its own; `url` is where clients go.

    If `secure` they speak TLS with it, whatever the server speaks.
    """

    def __init__(
        self,
        url: str,
        fate: Fate = each_passes,
        delay_s: Callable[[], float] = float,
        *,
        secure: bool = False,
    ) -> None:
        self._server = urlsplit(url)
        self._secure = secure
        self._fate, self._delay_s = fate, delay_s
        self._verbs = {script.sha: name for name, script in verbs.SCRIPTS.items()}
        self.done: Counter[tuple[str, str]] = Counter()  # (fate, verb) -> how often
        self._seen: Counter[str] = Counter()
        self._calls = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._lines: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RespProxy:
        self._thread.start()
        assert self._ready.wait(5), "the proxy did not start"
        port = self._listener.sockets[0].getsockname()[1]
        netloc = self._server.netloc.replace(f":{self._server.port}", f":{port}")
        url = self._server._replace(netloc=netloc).geturl()
        self.url = tls.trusted(url) if self._secure else url
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the proxy did not end"

    def lead_to(self, port: int) -> None:
        """Lead new connections to another server, as an address does after a fail-over.

        Those that are open stay where they are, until that server ends them.
        """
        netloc = self._server.netloc.replace(f":{self._server.port}", f":{port}")
        self._server = self._server._replace(netloc=netloc)

    @property
    def lost(self) -> int:
        """Replies that clients never got."""
        return sum(n for (fate, _), n in self.done.items() if fate == LOSE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        context = tls.context() if self._secure else None
        self._listener = await asyncio.start_server(
            self._line, "127.0.0.1", 0, ssl=context
        )
        self._ready.set()
        await self._over.wait()
        self._listener.close()
        for line in self._lines:
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _line(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        me: Any = asyncio.current_task()
        self._lines.add(me)
        host, port = self._server.hostname, self._server.port
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection(host, port)
            fates: deque[tuple[str, str]] = deque()
            ways = [
                asyncio.create_task(self._requests(reader, server, fates)),
                asyncio.create_task(self._answers(answers, writer, fates)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the proxy ends: so does this line
        finally:
            self._lines.discard(me)
            for end in (writer, server):
                if end is not None:
                    end.transport.abort()

    async def _requests(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        fates: deque[tuple[str, str]],
    ) -> None:
        parser = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := await client.read(1 << 16):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    fate, verb = self._judged(tuple(words))
                    fates.append((fate, verb))
                    server.write(hiredis.pack_command(tuple(words)))
                    if fate == TWICE:
                        server.write(hiredis.pack_command(tuple(words)))

    def _judged(self, words: tuple[Any, ...]) -> tuple[str, str]:
        verb = ""
        if words[0].upper() in (b"EVALSHA", b"EVAL"):
            verb = self._verbs.get(words[1].decode(errors="replace"), "eval")
            self._calls += 1
            self._seen[verb] += 1
        request = Request(words, verb, self._seen[verb], self._calls)
        fate = self._fate(request) if verb else PASS
        self.done[fate, verb] += 1
        return fate, verb

    async def _answers(
        self,
        server: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        fates: deque[tuple[str, str]],
    ) -> None:
        buffer, expected = b"", 0
        with contextlib.suppress(OSError):
            while data := await server.read(1 << 16):
                buffer += data
                at = 0
                while (end := frame_end(buffer, at)) is not None:
                    reply, at = buffer[at:end], end
                    if expected:  # of a request that was sent twice
                        expected -= 1
                        continue
                    fate, _ = fates.popleft()
                    if fate == LOSE:
                        return
                    expected = int(fate == TWICE)
                    if delay_s := self._delay_s():
                        await asyncio.sleep(delay_s)
                    client.write(reply)
                buffer = buffer[at:]


def frame_end(buffer: bytes, at: int) -> int | None:
    """Where the reply that begins at `at` ends; None while it is not whole."""
    wanted = 1
    while wanted:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind, size = buffer[at : at + 1], buffer[at + 1 : line_end]
        at = line_end + 2
        wanted -= 1
        if kind in b"$=!" and int(size) >= 0:
            at += int(size) + 2
            if at > len(buffer):
                return None
        elif kind in b"*~>":
            wanted += max(0, int(size))
        elif kind in b"%|":
            wanted += 2 * int(size)
    return at


@contextlib.contextmanager
def standing_before(
    url: str, fate: Fate = each_passes, delay_s: Callable[[], float] = float
) -> Iterator[RespProxy]:
    """A proxy for a while."""
    with RespProxy(url, fate, delay_s) as proxy:
        yield proxy
