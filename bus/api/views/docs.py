"""The API's description: OpenAPI for machines, a page to read and try it for people."""

from __future__ import annotations

import functools
from typing import Any, Final

import orjson
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.response import Response

from bus import databases, roles

from .. import auth
from ..exceptions import database_away, handle
from ..problems import MEDIA_TYPE
from .base import MeshViewSet

_METHODS: Final = ("GET", "HEAD", "OPTIONS")


class SchemaViewSet(MeshViewSet):
    """`GET schema`."""

    verbs = {"retrieve": (roles.READ, roles.SERVE)}

    @extend_schema(
        operation_id="schema",
        summary="This description",
        tags=["docs"],
        responses={(200, "application/json"): dict[str, Any]},
    )
    def retrieve(self, request: Any) -> Response:
        """OpenAPI 3.1 of every call."""
        return Response(description())


@functools.cache
def description() -> dict[str, Any]:
    """The OpenAPI document; making it takes a while, and it does not change."""
    generator: Any = SchemaGenerator
    found: dict[str, Any] = generator().get_schema(request=None, public=True)
    return found


@csrf_exempt  # else a POST were 403, though no token would help it
def docs(request: HttpRequest) -> HttpResponse:
    """Swagger UI from our own static files, for a session or a token.

    Without either a browser is sent to sign in, anything else gets 401.
    """
    if request.method == "OPTIONS":
        return HttpResponse(status=204, headers={"Allow": ", ".join(_METHODS)})
    if request.method not in _METHODS:
        return HttpResponseNotAllowed(_METHODS)
    try:
        auth.authenticate(request)
    except exceptions.NotAuthenticated as exc:
        if _wants_pages(request):
            return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)
        return _refusal(request, exc)
    except exceptions.AuthenticationFailed as exc:
        return _refusal(request, exc)
    except databases.AWAY as exc:
        return _told(request, database_away(exc, "not_written"))
    response = render(request, "bus/docs.html")
    response["Cache-Control"] = "no-store"
    return response


def _wants_pages(request: HttpRequest) -> bool:
    """Whether it is a browser that asks: `*/*` is anybody's."""
    kinds = ["application/problem+json", "text/html"]
    return request.get_preferred_type(kinds) == "text/html"


def _refusal(request: HttpRequest, exc: exceptions.APIException) -> HttpResponse:
    response = _told(request, exc)
    response["WWW-Authenticate"] = "Bearer"
    return response


def _told(request: HttpRequest, exc: Exception) -> HttpResponse:
    told = handle(exc, {"request": request})
    assert told is not None
    headers = dict(told.headers)
    headers.pop("Content-Type", None)
    body = orjson.dumps(told.data)
    return HttpResponse(body, MEDIA_TYPE, told.status_code, headers=headers)
