"""The gateway's door in Django: plain async views around `gateway.py`.

Not REST framework: its negotiation would refuse headers that Ollama's clients send, and
a stream must leave line by line.
"""

from __future__ import annotations

from typing import Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions as drf

from . import auth, gateway
from .gateway import Asked, Relay, Told


@csrf_exempt
async def door(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Whoever asks is known; whatever goes wrong is `{"error"}`.

    Exempt from Django's CSRF check because it asks bearers as well; sessions are
    checked by their authentication class.
    """
    try:
        request.principal = await auth.aauthenticate(request)  # type: ignore[attr-defined]
        told = await gateway.answer(_asked(request, rest))
    except Exception as exc:
        told = await _refusal(request, exc)
    response: HttpResponseBase
    if isinstance(told.body, Relay):
        response = StreamingHttpResponse(told.body, status=told.status)
    else:
        response = HttpResponse(told.body, status=told.status)
    for name, value in told.headers.items():
        response[name] = value
    return response


def _asked(request: HttpRequest, rest: str) -> Asked:
    return Asked(
        who=request.principal,  # type: ignore[attr-defined]
        method=str(request.method),
        path=rest,
        body=lambda: request.body,
        content_encoding=request.headers.get("Content-Encoding", ""),
        cache_control=request.headers.get("Cache-Control", ""),
        parameters=request.GET,
    )


async def _refusal(request: HttpRequest, exc: Exception) -> Told:
    if isinstance(exc, drf.AuthenticationFailed):
        refused = gateway.problem(exc)
        exc = await sync_to_async(auth.counted)(refused, request)
    return gateway.refusal(exc)


# With and without a slash at the end: a redirect would turn a POST into a GET.
urlpatterns: Final = [
    re_path(r"^ollama/generate/?$", door, {"rest": "generate"}, name="ollama-generate"),
    re_path(r"^ollama/(?P<rest>.*)$", door),
    re_path(r"^ollama$", door),
]
