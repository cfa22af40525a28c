"""The whole site behind a real web server, in a thread of the test process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import uvicorn
from uvicorn.server import ServerState

T = TypeVar("T")


class LiveSite:
    """uvicorn with the site's ASGI application, on a free port of loopback."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10), "the web server did not start"
        return self

    @property
    def uvicorn(self) -> uvicorn.Config:
        """The server's settings, as they hold for its next connection."""
        return self._server.config

    @property
    def state(self) -> ServerState:
        """The server's connections, and the requests it works on."""
        return self._server.server_state

    def stop(self) -> None:
        """Take no more, answer what is in flight, end: what SIGTERM does."""
        self._server.should_exit = True

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(15)
        assert not self._thread.is_alive(), "the web server did not end"
        self._socket.close()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = 5) -> T:
        """What a coroutine returns on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from bus import connection, ollama
        from bus.home import taken
        from meshsite.asgi import application

        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            application,
            http=taken.TakenInTime,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        config.timeout_graceful_shutdown = 3
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._up.set()
        await serving
        await ollama.aclose()
        await connection.awriter().aclose()
        await connection.awire().aclose()
