"""The ASGI application: static files, Django, websockets."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.conf import settings
from django.contrib.staticfiles import finders
from django.urls import re_path
from servestatic import ServeStaticASGI

from .handler import InOneGo

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshsite.settings")
django.setup(set_prefix=False)

from bus.api.bounds import bounded  # noqa: E402
from bus.api.express import express  # noqa: E402
from bus.api.freed import freed  # noqa: E402
from bus.api.gateway_lane import generating  # noqa: E402
from bus.api.stream import streamed  # noqa: E402
from bus.api.waiting import patient  # noqa: E402
from dashboard.origins import SameOrigin  # noqa: E402
from dashboard.routing import websocket_urlpatterns  # noqa: E402

# Names of files do not change with their content, so browsers ask again each minute
# and are answered by their ETag.
STATIC_MAX_AGE_S = 60


def _static_headers(headers: Any, path: str, url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"


def _with_static_files(app: Any) -> Any:
    """Static files straight from where apps keep them: no collecting, no copies."""
    statics = ServeStaticASGI(
        app,
        max_age=STATIC_MAX_AGE_S,
        allow_all_origins=False,
        add_headers_function=_static_headers,
    )
    for finder in finders.get_finders():
        for name, storage in finder.list([]):
            url = f"{settings.STATIC_URL}{name}"
            if url not in statics.files:  # the first finder that has it wins
                statics.add_file_to_dictionary(url, storage.path(name))
    return statics


async def _no_such_socket(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close", "code": 4404})


async def _lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Nothing to start; what a process shares starts on first use."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


_routes = [*websocket_urlpatterns, re_path("", _no_such_socket)]
_apps: dict[str, Any] = {
    "http": bounded(
        express(generating(patient(streamed(_with_static_files(freed(InOneGo()))))))
    ),
    "websocket": SameOrigin(AuthMiddlewareStack(URLRouter(_routes))),
    "lifespan": _lifespan,
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hand a connection to whoever speaks its protocol."""
    app = _apps.get(scope["type"])
    if app is None:
        raise ValueError(f"no application for scopes of type {scope['type']!r}")
    await app(scope, receive, send)
