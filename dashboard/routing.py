"""Websocket routes of the dashboard."""

from __future__ import annotations

from typing import Any

from django.urls import path

from dashboard.consumers import FeedConsumer

websocket_urlpatterns: list[Any] = [path("ws/feed", FeedConsumer.as_asgi())]
