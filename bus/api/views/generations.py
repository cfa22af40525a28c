"""Generations of the gateway: those that run in any process, and how to end one."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import errors, ollama, roles

from .. import parsing, serializers, shapes
from .base import MeshViewSet


class GenerationViewSet(MeshViewSet):
    """`GET ollama/generations`, `DELETE ollama/generations/{id}`."""

    verbs = {"list": (roles.READ,), "destroy": (roles.CANCEL,)}

    @extend_schema(
        operation_id="list_generations",
        summary="Generations that run",
        tags=["ollama"],
        responses=serializers.GenerationList,
    )
    def list(self, request: Any) -> Response:
        """Those of all processes that have run for half a second, the longest first.

        All of them, since as many run at once as the gateway has places. A token bound
        to topics is told of its own. Of what was asked nothing is told but its size.
        """
        return Response({"generations": _reached(self.who), "next": None})

    @extend_schema(
        operation_id="end_generation",
        summary="End a generation",
        tags=["ollama"],
        parameters=[serializers.GENERATION_ID],
        responses={202: serializers.Generation},
    )
    def destroy(self, request: Any, generation_id: str) -> Response:
        """Have it end, in whichever process it runs; within a second it has.

        The model server stops, and whoever waits for the answer is told that an
        operator ended it. A repeat while it ends is answered alike; 404 once it has.
        """
        parsing.nothing(self.body(needed=False))
        found = (row for row in _reached(self.who) if row["id"] == generation_id)
        row = next(found, None)
        if row is None or not ollama.stop(generation_id):
            said = f"no generation {generation_id!r:.40} runs; it may have ended"
            raise errors.NotFound(said)
        if not row["ending"]:
            about = {name: row[name] for name in ("model", "owner")}
            self.record("end generation", "", generation_id, **about)
        return Response({**row, "ending": True}, 202)


def _reached(who: roles.Principal) -> list[dict[str, Any]]:
    rows = map(shapes.generation, ollama.running())
    return [row for row in rows if not who.topics or row["owner"] == who.name]
