"""The Django app of the bus, with what it says when a command starts."""

from __future__ import annotations

import sys
from typing import Any

from django.apps import AppConfig
from django.core import checks


class BusConfig(AppConfig):
    """The engine: topics, tasks, agents."""

    name = "bus"
    verbose_name = "Task mesh"

    def ready(self) -> None:
        checks.register(runserver_lacks_sockets)


def runserver_lacks_sockets(**_: Any) -> list[checks.CheckMessage]:
    """Django's development server speaks no websockets: pages would stand still."""
    if sys.argv[1:2] != ["runserver"]:
        return []
    return [
        checks.Warning(
            "runserver serves no websockets, so pages do not update by themselves, "
            "and without DEBUG no static files.",
            hint="Use `make run` or `manage.py up`, or `manage.py web` for the web "
            "server alone.",
            id="bus.W001",
        )
    ]
