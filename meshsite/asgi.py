"""The ASGI application: static files, Django, websockets."""

from __future__ import annotations

import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.asgi import get_asgi_application
from servestatic import ServeStaticASGI

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshsite.settings")
django = get_asgi_application()

from dashboard.routing import websocket_urlpatterns  # noqa: E402


def _with_static_files(app: Any) -> Any:
    """Static files straight from where apps keep them: no collecting, no copies."""
    statics = ServeStaticASGI(app, max_age=60)
    for finder in finders.get_finders():
        for name, storage in finder.list([]):
            url = f"{settings.STATIC_URL}{name}"
            statics.add_file_to_dictionary(url, storage.path(name))
    return statics


application = ProtocolTypeRouter(
    {
        "http": _with_static_files(django),
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
        ),
    }
)
