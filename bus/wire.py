"""The agent's own connection: an asyncio protocol over hiredis.

Commands are written at once and their replies matched in order, so any number of calls
may wait on one connection, and a cancelled call never shifts the replies of others.
It speaks RESP2, in which a server says nothing that was not asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
import redis
import redis.asyncio

from . import lines

_WATCH_S: Final = 1.0


class _Protocol(asyncio.Protocol):
    """Matches replies to the futures that wait for them, oldest first."""

    def __init__(self, timeout_s: float, moved: Callable[[], None]) -> None:
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self.lost = False
        self.known: set[str] = set()  # what the server was told of (`introduce`)
        self._timeout_s, self._moved = timeout_s, moved
        self._reader = lines.make_reader()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        reader.feed(data)
        try:
            while (value := reader.gets()) is not False:
                future, _ = waiting.popleft()
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(value, Exception):
                    future.set_exception(value)
                    if isinstance(value, redis.exceptions.NoScriptError):
                        self.known.clear()
                    if lines.is_elsewhere(value):
                        self.close()
                        self._moved()
                        return
                else:
                    future.set_result(value)
        except (redis.ConnectionError, IndexError):
            self.close()  # not the protocol, or a reply nobody asked for

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ended.done():
            self.ended.set_result(None)
        if self._watch is not None:
            self._watch.cancel()
        while self.waiting:
            future, _ = self.waiting.popleft()
            if not future.done():
                future.set_exception(
                    redis.ConnectionError("Connection closed by server.")
                )

    def send(
        self, *commands: tuple[Any, ...], more_s: float = 0.0
    ) -> list[asyncio.Future[Any]]:
        """Write commands at once; a future for each reply."""
        # The write is a system call, the dearest part of a command: one for all.
        data = b"".join(map(hiredis.pack_command, commands))
        return self.write(data, len(commands), more_s)

    def write(
        self, data: bytes, count: int = 1, more_s: float = 0.0
    ) -> list[asyncio.Future[Any]]:
        """The same for so many commands as they go out."""
        assert self._transport is not None
        if self.lost or self._transport.is_closing():
            # It went between the end of its login and this call, and nobody comes by
            # again to fail what waits here. Or it is going, in this turn of the loop.
            raise redis.ConnectionError("Connection closed by server.")
        until, futures = self._loop.time() + self._timeout_s + more_s, []
        for _ in range(count):
            futures.append(self._loop.create_future())
            self.waiting.append((futures[-1], until))
        self._transport.write(data)
        return futures

    def close(self) -> None:
        """Drop the connection; whoever waits gets a ConnectionError."""
        if self._transport is not None:
            self._transport.abort()

    async def leave(self) -> None:
        """Say that nothing more comes, until the server has closed its end too."""
        assert self._transport is not None
        try:
            if self._transport.is_closing():
                pass  # the server was first; uvloop would raise
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:  # TLS has no half of an end
                self._transport.close()
            await self.ended
        finally:
            self.close()

    def _look(self) -> None:
        """One timer per connection instead of one per command."""
        if self.waiting and self._loop.time() > self.waiting[0][1]:
            self.close()
            return
        self._watch = self._loop.call_later(_WATCH_S, self._look)


class Wire:
    """A connection that is made on first use and again after it broke.

    Blocking commands hold up everything behind them: give those a wire of their own,
    with a timeout beyond the block.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float,
        name: str,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._facts: dict[str, Any] = dict(redis.asyncio.connection.parse_url(url))
        self._class = self._facts.pop("connection_class", None)
        self._timeout_s = timeout_s
        self._moved = moved  # hears that another server is the one to ask
        self._name = name
        self._protocol: _Protocol | None = None
        self._connecting = asyncio.Lock()

    async def execute_command(self, *command: Any) -> Any:
        """The reply to one command; redis-py's errors as elsewhere."""
        protocol = self._protocol
        if protocol is None or protocol.lost:
            protocol = await self._connected()
        return await protocol.send(command)[0]

    def introduce(self, word: str) -> bool:
        """Take note that its server is told of this now; True for the first time on
        this connection, and again once it has forgotten its scripts."""
        protocol = self._protocol
        if protocol is None or word in protocol.known:
            return False
        protocol.known.add(word)
        return True

    def send_packed(self, data: bytes) -> asyncio.Future[Any] | None:
        """Send a command as it goes out, without waiting for anything; its reply.

        None where the connection is still to be made.
        """
        if self._protocol is None:
            return None
        try:
            return self._protocol.write(data)[0]
        except redis.ConnectionError:
            return None

    async def execute_all(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies to several commands that go out together."""
        replies = await self.ask_all(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def ask_all(
        self, *commands: tuple[Any, ...], more_s: float = 0.0
    ) -> list[Any]:
        """The same with what the server refuses as values among them.

        They get `more_s` beyond the timeout, for one that blocks longer than others.
        """
        protocol = self._protocol
        if protocol is None or protocol.lost:
            protocol = await self._connected()
        futures = protocol.send(*commands, more_s=more_s)
        try:
            return [await _value_of(future) for future in futures]
        except BaseException:
            for future in futures:
                # Nobody will ask for the others; a failed one would complain of that.
                if not future.cancel() and not future.cancelled():
                    future.exception()
            raise

    async def disconnect(self) -> None:
        """Drop the connection; the next command makes another."""
        if self._protocol is not None:
            self._protocol.close()
            self._protocol = None

    async def aclose(self) -> None:
        """The end of this wire."""
        await self.disconnect()
        # Lets the transport go before the loop may close; with TLS there are two.
        for _ in range(2):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """The end of this wire, once the server has ended it as well.

        Until then it serves who blocks there, whether or not anybody still listens.
        """
        protocol, self._protocol = self._protocol, None
        if protocol is not None and not protocol.lost:
            await protocol.leave()

    async def _connected(self) -> _Protocol:
        async with self._connecting:
            if self._protocol is not None and not self._protocol.lost:
                return self._protocol
            try:
                # Connecting and logging in together get one timeout.
                self._protocol = await asyncio.wait_for(self._login(), self._timeout_s)
            except TimeoutError:
                raise redis.TimeoutError("Timeout connecting to server") from None
            except OSError as exc:
                raise redis.ConnectionError(f"Error connecting: {exc}") from exc
            return self._protocol

    async def _login(self) -> _Protocol:
        loop, facts = asyncio.get_running_loop(), self._facts
        protocol = _Protocol(self._timeout_s, self._moved)
        if "path" in facts:
            await loop.create_unix_connection(lambda: protocol, facts["path"])
        else:
            host, port = facts.get("host", "localhost"), facts.get("port", 6379)
            await loop.create_connection(lambda: protocol, host, port, ssl=self._tls())
        try:
            if facts.get("password"):
                login = [facts["username"]] if facts.get("username") else []
                await self._log_in(protocol, (*login, facts["password"]))
            if facts.get("db"):
                await protocol.send(("SELECT", facts["db"]))[0]
            if self._name:
                await protocol.send(("CLIENT", "SETNAME", self._name))[0]
        except BaseException:
            protocol.close()
            raise
        return protocol

    def _tls(self) -> ssl.SSLContext | None:
        """What the URL says of TLS, if that is what it asks for.

        redis-py knows all there is to say. It reads the files anew for each connection:
        certificates are renewed.
        """
        if self._class is not redis.asyncio.SSLConnection:
            return None
        return redis.asyncio.SSLConnection(**self._facts).ssl_context.get()

    async def _log_in(self, protocol: _Protocol, words: tuple[str, ...]) -> None:
        try:
            await protocol.send(("AUTH", *words))[0]
        except redis.ResponseError as exc:
            raise redis.AuthenticationError(str(exc)) from exc


async def _value_of(future: asyncio.Future[Any]) -> Any:
    """A reply, also where it is an error of the server's."""
    try:
        return await future
    except redis.ResponseError as exc:
        return exc
