"""Django's handler for ASGI, with the middleware and the view in one go.

Django's own goes from the loop to the request's thread and back for each half of each
middleware and for the view, some sixteen times: for most of our calls, which are short,
that is half of what they cost. A view that is a coroutine still runs on the loop.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class InOneGo(ASGIHandler):
    """The application as `get_asgi_application` makes it, with fewer hand-overs."""

    def load_middleware(self, is_async: bool = False) -> None:
        """Have all middleware, and what is between them, synchronous."""
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """What the handler of ASGI asks for, by way of the one of WSGI."""
        response: HttpResponseBase = await sync_to_async(self.get_response)(request)
        return response
