"""The express lane: the hot calls, answered in front of Django.

A view costs milliseconds around a task that costs microseconds. So what comes often
and looks as usual is answered here; whatever else there is goes on to Django, which
answers everything. What a call means is the same code for both doors (`calls.py`), and
one contract test goes through both: switching the lane off changes speed only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from django.core.signals import got_request_exception

from bus import accounts, databases, messages, roles, whence
from bus.conf import conf

from . import exceptions, head, hot, permissions
from .asgi import App, Receive, Send
from .calls import Answer
from .middleware import mistake
from .problems import MEDIA_TYPE, Problem
from .schema import PREFIX


class _Call(NamedTuple):
    """A call of the lane: what a role needs for it, and who does it."""

    verbs: tuple[str, ...]
    work: Callable[[hot.Asked], Awaitable[Answer | None]]


_CALLS: Final = {
    f"{PREFIX}/enqueue": _Call((roles.ENQUEUE,), hot.enqueue),
    f"{PREFIX}/enqueue/batch": _Call((roles.ENQUEUE,), hot.batch),
    f"{PREFIX}/deliveries/complete": _Call((roles.SERVE,), hot.complete),
    f"{PREFIX}/deliveries/fail": _Call((roles.SERVE,), hot.fail),
    f"{PREFIX}/deliveries/extend": _Call((roles.SERVE,), hot.extend),
    f"{PREFIX}/deliveries/release": _Call((roles.SERVE,), hot.release),
}
# Of calls with a name in their path: what stands before it, and behind it.
_NAMED: Final = (
    (f"{PREFIX}/agents/", "/heartbeat", _Call((roles.SERVE,), hot.beat)),
    (f"{PREFIX}/topics/", "/claim", _Call((roles.SERVE,), hot.claim)),
)

_AHEAD_S: Final = accounts.BELIEVED_S / 2
_LATER_S: Final = 0.1
_looking: Final[dict[bytes, asyncio.Future[None]]] = {}  # the loop holds them weakly

_ALWAYS: Final = ((b"allow", b"POST, OPTIONS"), (b"cache-control", b"no-store"))
_JSON: Final = (b"content-type", b"application/json")
_PROBLEM: Final = (b"content-type", MEDIA_TYPE.encode())


def express(app: App) -> App:
    """The ASGI app, to which only those requests come that are not for the lane."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        taken = None
        if scope["type"] == "http" and scope["method"] == "POST" and conf.EXPRESS_LANE:
            taken = await _taken(scope)
        if taken is None:
            await app(scope, receive, send)
            return
        call, who, read, name = taken
        body = b""
        if read.length:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body = message["body"]
        asked = hot.Asked(who, read, body, name, receive)
        answer = await _answered(scope, call, asked)
        if answer is None:
            return
        status, headers, text = answer
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": text})

    return outer


async def _taken(scope: Any) -> tuple[_Call, roles.Principal, head.Head, str] | None:
    """The call, who asks, the head, the name in the path; None for what is Django's.

    Decided before the body is taken. Who is not let in is told so by Django, which also
    counts the wrong tokens.
    """
    path: str = scope["path"]
    call, name = _CALLS.get(path), ""
    if call is None:
        call, name = _named(path)
    if call is None or scope["query_string"]:
        return None
    read = head.read(scope)
    if read is None:
        return None
    who = await known(read.token)
    return None if who is None else (call, who, read, name)


async def known(token: bytes) -> roles.Principal | None:
    """Whom a token stands for that was let in before; None for all others.

    The first look at a token is Django's: strangers who try one after the other cost
    the lane nothing, and hold up nobody whose own is looked at again. Who calls all
    the time does not wait for a look: it is taken while he is still believed.
    """
    who, left_s = accounts.believed(token)
    if who is not None and left_s < _AHEAD_S and token not in _looking:
        _looking[token] = asyncio.ensure_future(_look_ahead(token))
    if who is None and accounts.is_familiar(token):
        with contextlib.suppress(*databases.AWAY):  # Django says so
            return await accounts.aprincipal_of(token)
    return who


async def _look_ahead(token: bytes) -> None:
    try:
        # The look would take the processor from the very call that made it due.
        await asyncio.sleep(_LATER_S)
        # Who comes once nothing is believed any more hears of a database that is away.
        with contextlib.suppress(*databases.AWAY):
            await accounts.aprincipal_of(token, anew=True)
    finally:
        del _looking[token]


def _named(path: str) -> tuple[_Call | None, str]:
    for before, behind, call in _NAMED:
        if path.startswith(before) and path.endswith(behind):
            name = path[len(before) : -len(behind)]
            if name and "/" not in name:
                return call, name
    return None, ""


async def _answered(
    scope: Any, call: _Call, asked: hot.Asked
) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
    """Status, headers and body of what the call says, also where it fails.

    None where the client went away and nobody is left to answer.
    """
    try:
        # In the order of a view: whether they may, how often, then what is meant.
        permissions.check_verbs(asked.who, call.verbs)
        await hot.throttle(asked.who)
        answer = await call.work(asked)
        if answer is None:
            return None
        status, body, more = answer
        kind = _JSON
    except Exception as exc:
        problem = exceptions.problem_of(exc) or _filed(scope)
        status, body, more = problem.status, problem.document(), problem.headers
        kind = _PROBLEM
    text = messages.written(body)
    headers = [
        kind,
        (b"content-length", b"%d" % len(text)),
        *_ALWAYS,
        (head.REQUEST_ID, whence.request_id(asked.head.request_id).encode()),
        *head.of_site(scope),
    ]
    for name in more:
        headers.append((name.lower().encode(), more[name].encode("latin-1")))
    return status, headers, text


def _filed(scope: Any) -> Problem:
    """The problem of a bug of ours; what failed is logged as if it were a view's."""
    request = SimpleNamespace(method=scope["method"], path=scope["path"])
    got_request_exception.send(sender=None, request=request)
    return mistake(request)
