"""The web server: uvicorn on a socket that somebody else holds open."""

from __future__ import annotations

import contextlib
import errno
import gc
import http.client
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn
from django.conf import settings
from django.urls import get_resolver
from django.utils.module_loading import import_string

from .. import conf, errors, feed, keys
from ..bulk.driver import Foreman
from ..janitor import Janitor
from ..live import arrivals
from . import taken
from .pulse import Pulse

log = logging.getLogger("bus.web")

USUAL_PORT: Final = 8000
PORT_TRIES: Final = 100
BACKLOG: Final = 2048  # connections that may wait while the web process restarts
GRACE_S: Final = 3  # for requests in progress; `up` ends everything within 10 s
# Beyond this a new connection gets 503 at once. Websockets and long polls count, and
# the system's limit of open files is raised to allow them.
CONNECTIONS_MAX: Final = 10_000
KEEP_ALIVE_S: Final = 60  # longer than clients pause between calls of one session
PING_S: Final = 20.0  # a page that went away without a word is noticed
SOCKET_MESSAGE_MAX_BYTES: Final = 65_536


def listen(host: str, port: int | None = None) -> socket.socket:
    """A listening socket on `port`, or on 8000 or the next free one.

    Bound once and passed on by its descriptor: nobody can take the port between the
    look and the bind, and connections wait in its backlog while the web process is
    restarted. Raises ServerError with what to do.
    """
    usual = range(USUAL_PORT, USUAL_PORT + PORT_TRIES)
    for each in usual if port is None else [port]:
        try:
            return _bound(host, each)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                continue
            why = exc.strerror or str(exc)
            hint = "HOST (or --host) takes an address of this machine, as 127.0.0.1"
            if exc.errno == errno.EACCES:
                hint = "ports below 1024 are the system's; give another one as PORT"
            raise errors.ServerError(
                f"nothing can listen on {host!r}, port {each}: {why}; {hint}"
            ) from exc
    if port is None:
        raise errors.ServerError(
            f"ports {usual[0]} to {usual[-1]} on {host} are taken; give one as PORT"
        )
    raise errors.ServerError(
        f"port {port} on {host} is taken; free it, give another one as PORT (or "
        "--port), or none at all to take the next free one"
    )


def inherited(fd: int) -> socket.socket:
    """The listening socket behind a descriptor from whoever started us."""
    try:
        # By its descriptor alone: family and protocol are asked of the system, since
        # asyncio turns Nagle's delay off only for sockets that say they are TCP.
        held = socket.socket(fileno=fd)
        listening = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise errors.InvalidOption(f"--fd {fd} is no socket: {exc.strerror}") from exc
    if not listening:
        held.detach()  # it is not ours to close
        raise errors.InvalidOption(f"--fd {fd} is a socket that does not listen")
    return held


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(url: str, *, timeout_s: float = 1.0) -> bool:
    """Whether a web server answers at `url` in time, whatever it says."""
    place = url.removeprefix("http://")
    with contextlib.closing(
        http.client.HTTPConnection(place, timeout=timeout_s)
    ) as connection:
        try:
            headers = {"Host": _own_name()} if settings.ALLOWED_HOSTS else {}
            connection.request("GET", "/api/v1/mesh/health/live", headers=headers)
            return connection.getresponse().status > 0
        except (OSError, http.client.HTTPException):
            return False


def _own_name() -> str:
    """A name the site is asked for under: by its address alone it would refuse."""
    name: str = settings.ALLOWED_HOSTS[0]
    return name.removeprefix(".") if name != "*" else "localhost"


def serve(listener: socket.socket) -> NoReturn:
    """Serve the site until SIGTERM or SIGINT, then end the process."""
    # Before uvicorn has its handlers, and once it gives the signal back after its stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    _allow_connections()
    app = import_string(settings.ASGI_APPLICATION)
    _ = get_resolver().url_patterns  # all views, before they are asked for
    # To look through all that code again and again takes as long as a hundred calls.
    gc.collect()
    gc.freeze()
    # After the import, which sets Django's loggers back to their defaults.
    log_own_faults()
    proxies = list(conf.conf.TRUSTED_PROXIES)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=taken.TakenInTime,
        ws="websockets-sansio",
        ws_max_size=SOCKET_MESSAGE_MAX_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # costs more, per frame and socket, than it saves
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    _Server(config).run(sockets=[listener])
    _leave()


def log_own_faults() -> None:
    """Anybody can cause a 4xx, or send a socket what is no UTF-8 (it is closed with
    1007), as often as he likes; the log is for what we do wrong."""
    for name in ("django.request", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(_is_own_fault)


def _is_own_fault(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid UTF-8")


class _Server(uvicorn.Server):
    """Uvicorn, in the words of the house."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # A mesh whose agents are all written by hand, or call over HTTP, has nobody
        # else for the shared duties.
        me = keys.consumer_of(f"web-{os.getpid()}")
        pulse = Pulse()
        self._duties = (pulse, Janitor(me, pulse), Foreman())
        for duty in self._duties:
            duty.start()
        for each in sockets or ():
            log.info("web server answers at %s", url_of(each))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("web server stops")
        for duty in self._duties:
            duty.close()
        # Calls that wait for the end of a task answer now, with how it stands, instead
        # of being cut off when the grace is over.
        feed.shared().close()
        arrivals.shared().close()
        await super().shutdown(sockets)


def _leave(signum: int = 0, frame: FrameType | None = None) -> NoReturn:
    # Threads of views that hang must not keep the process.
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(0)


def _bound(host: str, port: int) -> socket.socket:
    infos: Sequence[Any] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, proto, _, address = infos[0]
    made = socket.socket(family, kind, proto)
    try:
        # Connections of a predecessor that linger do not keep the port from us; a
        # listener does.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _allow_connections() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + 1_000
    soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
