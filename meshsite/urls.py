"""Routes of the site: the API, Django's admin, the dashboard."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/mesh/", include("bus.api.urls")),
    path("admin/", admin.site.urls),
    path("", include("dashboard.urls")),
]

# Pages for what went wrong. They take no part in the API, which answers for itself.
handler403 = "dashboard.failures.forbidden"
handler404 = "dashboard.failures.not_found"
handler500 = "dashboard.failures.server_error"
