"""The API's description: OpenAPI for machines, a page to read and try it for people."""

from __future__ import annotations

import functools
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import roles

from .base import MeshViewSet


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


def docs(request: HttpRequest) -> HttpResponse:
    """Swagger UI from our own static files, for whoever is signed in."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)
    return render(request, "bus/docs.html")
