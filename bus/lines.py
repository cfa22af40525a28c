"""The short way for scripts: one write, one read, on a connection redis-py made.

redis-py connects (TLS, login, names, timeouts), then its per-command work is left out:
of 110 us per call about 60 are its own. Nothing is ever sent twice from here.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import hiredis
import redis

_Push: Final = hiredis.PushNotification
# Replies of a server that is not, or not yet, the one to ask: after a fail-over another
# may stand behind the same address, which connections that are open never see.
ELSEWHERE: Final = ("READONLY", "UNBLOCKED", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


def is_elsewhere(exc: BaseException) -> bool:
    """Whether this reply asks for a connection made anew."""
    return str(exc).startswith(ELSEWHERE)


def has_ended(exc: BaseException) -> bool:
    """Whether the other end is gone, and with it most likely that of every line.

    A server that restarted, an address that moved, a firewall that forgot: they take
    all idle connections along. A server that did not answer in time (an error without
    a number, other than the kernel's when it gives a peer up) may only be slow: the
    other lines are as good as a new one, which it would have to make as well.
    """
    if isinstance(exc, TimeoutError):
        return exc.errno is not None
    return isinstance(exc, (redis.ConnectionError, OSError))


def reply_error(text: str) -> redis.ResponseError:
    """An error reply, its code word in front; NOSCRIPT is the one we catch by class."""
    if text.startswith("NOSCRIPT"):
        return redis.exceptions.NoScriptError(text)
    return redis.ResponseError(text)


def opening(words: tuple[Any, ...], more: int) -> bytes:
    """The part of a command that stays; `rest` packs its `more` other words."""
    return b"*%d\r\n%b" % (len(words) + more, rest(words))


def rest(words: tuple[Any, ...]) -> bytes:
    """Words that go out behind an `opening`."""
    packed: bytes = hiredis.pack_command(words)
    return packed[packed.index(b"\n") + 1 :]  # without how many they are


def make_reader() -> hiredis.Reader:
    """A parser that reads what others wrote even where it is no UTF-8."""
    return hiredis.Reader(
        encoding="utf-8",
        errors="backslashreplace",
        replyError=reply_error,
        protocolError=redis.ConnectionError,
    )


def _time_in_kernel(sock: socket.socket) -> None:
    """Have the kernel keep the timeout of a plain socket, not Python.

    Python asks with a call of its own, before each write and each read, whether it may.
    What is encrypted or patched (gevent) is left alone.
    """
    timeout_s = sock.gettimeout()
    if not timeout_s or type(sock).__module__ != "socket":
        return
    seconds = int(timeout_s)
    span = struct.pack("@ll", seconds, int((timeout_s - seconds) * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, span)
    sock.settimeout(None)


class Line:
    """One connection; an error that leaves a reply outstanding must drop it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        # The connection of a single-connection client; its socket is connected here.
        connection: Any = client.connection
        connection.connect()
        self._socket = connection._sock
        _time_in_kernel(self._socket)
        self._reader = make_reader()

    def call(self, command: tuple[Any, ...]) -> Any:
        """The reply to one command; the server's error raised."""
        return self.call_packed(hiredis.pack_command(command))

    def call_packed(
        self, data: bytes, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        """The same for a command as it goes out."""
        self._send(data)
        if meanwhile is not None:
            meanwhile()
        return self._reply()

    def call_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Replies to several commands sent together; errors among them as values."""
        self._send(b"".join(hiredis.pack_command(each) for each in commands))
        replies = []
        for _ in commands:
            try:
                replies.append(self._reply())
            except redis.ResponseError as exc:
                replies.append(exc)
        return replies

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def _reply(self) -> Any:
        reader = self._reader
        # What a server says unasked (RESP3) is no reply: taken for one, it would leave
        # the reply to whoever has the line next.
        while (value := reader.gets()) is False or type(value) is _Push:
            if value is False:
                reader.feed(self._received())
        if isinstance(value, Exception):
            raise value
        return value

    def _received(self) -> bytes:
        try:
            data: bytes = self._socket.recv(65_536)
        except BlockingIOError:
            raise TimeoutError("timed out") from None
        if not data:
            raise redis.ConnectionError("Connection closed by server.")
        return data

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()


class Lines:
    """A bounded pool of lines; a thread beyond the last one waits for it."""

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        size: int,
        wait_s: float,
        url: str,
        moved: Callable[[], None],
    ) -> None:
        self.size, self.url = size, url
        self._connect = connect
        self._moved = moved  # hears that another server is the one to ask
        self._wait_s = wait_s
        # One place per line that may be in use, with those that are open at the right
        # end; pop and append of a deque are atomic.
        self._places: deque[Line | None] = deque([None] * size)
        self._freed = threading.Condition()
        self._waiting = 0

    def execute_command(
        self, *command: Any, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        """One command over a free line; `meanwhile` the server works, if given."""
        return self.execute_packed(hiredis.pack_command(command), meanwhile)

    def execute_packed(
        self, data: bytes, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        """The same for a command as it goes out (`opening` and `rest`)."""
        # `line` without its generator: this is passed by every task.
        line = self._take()
        kept: Line | None = None
        try:
            reply = line.call_packed(data, meanwhile)
            kept = line
            return reply
        except BaseException as exc:
            kept = self._after(line, exc)
            raise
        finally:
            self._give(kept)

    def execute_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip; errors come back as values."""
        with self.line() as line:
            return line.call_all(commands)

    @contextlib.contextmanager
    def line(self) -> Iterator[Line]:
        """A line to oneself; MaxConnectionsError if none comes free in time."""
        line = self._take()
        kept: Line | None = None
        try:
            yield line
            kept = line
        except BaseException as exc:
            kept = self._after(line, exc)
            raise
        finally:
            self._give(kept)

    def close(self) -> None:
        """Drop the lines nobody uses."""
        for _ in range(self.size):
            try:
                line = self._places.pop()
            except IndexError:
                return  # the rest is in use
            if line is not None:
                line.close()
            self._give(None)

    def _after(self, line: Line, exc: BaseException) -> Line | None:
        """The line, if it is as good as before this error."""
        said_no = isinstance(exc, redis.ResponseError)
        if said_no and not is_elsewhere(exc):
            return line
        line.close()  # a reply may be outstanding: nobody may read it later
        if said_no or has_ended(exc):
            # Those nobody uses lead to the same end. Each would cost a call one try,
            # until the server seems to be away. Those in use find out for themselves.
            self.close()
        if said_no:
            self._moved()
        return None

    def _take(self) -> Line:
        try:
            line = self._places.pop()
        except IndexError:
            line = self._wait()
        if line is None:
            try:
                line = Line(self._connect())
            except BaseException:
                self._give(None)
                raise
        return line

    def _give(self, line: Line | None) -> None:
        if line is None:
            self._places.appendleft(None)
        else:
            self._places.append(line)
        # Who waits has said so before the last look, or finds this place at that look.
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def _wait(self) -> Line | None:
        """The place that comes free next."""
        until = time.monotonic() + self._wait_s
        with self._freed:
            self._waiting += 1
            try:
                while True:
                    try:
                        return self._places.pop()
                    except IndexError:
                        left = until - time.monotonic()
                    if left <= 0:
                        raise redis.exceptions.MaxConnectionsError(
                            "No connection available."
                        )
                    self._freed.wait(left)
            finally:
                self._waiting -= 1
