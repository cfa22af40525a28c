"""A server that says what a test wrote down, where no real one can be made to."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import Any, Final

import hiredis

from bus import verbs

ACCEPTED: Final = b"*1\r\n$3\r\n1-0\r\n"  # of `enqueue` and `send`: one new task
CUT: Final = b""  # the connection ends where the reply should come
_SENDS: Final = [verbs.SCRIPTS[name] for name in ("enqueue", "send")]


class _Talk(socketserver.BaseRequestHandler):
    """One connection."""

    server: ScriptedServer

    def handle(self) -> None:
        reader = hiredis.Reader()
        while data := self.request.recv(65_536):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                reply = self.server.reply(command)
                if reply == CUT:
                    return
                self.request.sendall(reply)


class ScriptedServer(socketserver.ThreadingTCPServer):
    """Answers each send with the next of `replies`, the last one for ever.

    `sends` are the verbs of those that came, `connections` counts who connected.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *replies: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.replies = list(replies)
        self.sends: list[str] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0?protocol=2"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def reply(self, command: list[bytes]) -> bytes:
        """What to say to this command."""
        verb, text = command[0].upper().decode(), command[1:2]
        if verb not in ("EVAL", "EVALSHA"):
            return b"+PONG\r\n" if verb == "PING" else b"+OK\r\n"
        mine = [each.encode() for one in _SENDS for each in (one.sha, one.text)]
        if text[0] not in mine:
            return b":1\r\n"
        with self._lock:
            self.sends.append(verb)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
