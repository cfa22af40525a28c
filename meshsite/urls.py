"""Routes of the site: the API, Django's admin, the dashboard."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/mesh/", include("bus.api.urls")),
    path("admin/", admin.site.urls),
    path("", include("dashboard.urls")),
]
