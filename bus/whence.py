"""From where an action came: its door, the id of its request, the caller's address.

A request's id is the `X-Request-ID` it came with, else one of ours; the answer has it
in the same header, the audit trail beside what was done.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER: Final = "X-Request-ID"
API: Final = "api"
PAGE: Final = "page"
ADMIN: Final = "admin"
COMMAND: Final = "command"
DOORS: Final = (API, PAGE, ADMIN, COMMAND)
_BY_PATH: Final = (("/api/", API), ("/admin/", ADMIN))
# What clients and proxies send; anything else could be lines of its own in a log.
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Whence:
    """One of `DOORS`, the request's id, the address of the connection; or empty."""

    door: str = ""
    request_id: str = ""
    address: str = ""


_NOWHERE: Final = Whence()
_now: ContextVar[Whence] = ContextVar("mesh_whence", default=_NOWHERE)


def now() -> Whence:
    """From where that came which is done just now; all empty outside of a door."""
    return _now.get()


@contextlib.contextmanager
def through(door: str, request_id: str = "", address: str = "") -> Iterator[Whence]:
    """All that is done inside came through this door."""
    here = Whence(door, request_id, address)
    before = _now.set(here)
    try:
        yield here
    finally:
        _now.reset(before)


def request_id(told: str | None) -> str:
    """The id of a request whose `X-Request-ID` is this; a new one if it is none."""
    # Unique, not secret: Python seeds it anew in each process.
    return told if told and _ID.fullmatch(told) else f"{random.getrandbits(128):032x}"


def noted(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Django middleware, to be the outermost: its header is on every answer."""

    def noting(request: HttpRequest) -> HttpResponseBase:
        with _of(request) as here:
            return _told(get_response(request), here)

    return noting


def _of(request: HttpRequest) -> contextlib.AbstractContextManager[Whence]:
    path = request.path
    door = next((name for start, name in _BY_PATH if path.startswith(start)), PAGE)
    told = request.headers.get(HEADER)
    return through(door, request_id(told), request.META.get("REMOTE_ADDR") or "")


def _told(response: HttpResponseBase, here: Whence) -> HttpResponseBase:
    response[HEADER] = here.request_id
    return response
