"""The Django app of the bus."""

from __future__ import annotations

from django.apps import AppConfig


class BusConfig(AppConfig):
    """The engine: topics, tasks, agents."""

    name = "bus"
    verbose_name = "Task mesh"
