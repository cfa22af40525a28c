"""The gateway's generations, as described."""

from __future__ import annotations

from typing import Final

from drf_spectacular.utils import OpenApiParameter, extend_schema_serializer
from rest_framework import serializers as s

from bus.gateway.reports import QUEUED, RUNNING

from .basics import NULL


class Generation(s.Serializer):
    """A generation that runs in some process, or is queued there."""

    id = s.CharField()
    owner = s.CharField(help_text="The token or user that asked first.")
    model = s.CharField()
    asked_bytes = s.IntegerField(**NULL, help_text="Of the prompt or the messages.")
    lines = s.IntegerField(**NULL, help_text="Of the answer, so far.")
    waiting = s.IntegerField(
        **NULL, help_text="Callers of its process that wait for it."
    )
    state = s.ChoiceField([RUNNING, QUEUED])
    queued_s = s.FloatField(**NULL, help_text="Since it waits for a place.")
    running_s = s.FloatField(**NULL, help_text="Since it has one.")
    host = s.CharField()
    pid = s.IntegerField(**NULL)
    ending = s.BooleanField(help_text="Whether somebody has ended it already.")


@extend_schema_serializer(many=False)
class GenerationList(s.Serializer):
    """All that run, then those that are queued."""

    generations = Generation(many=True)
    next = s.CharField(**NULL, help_text="Always null: these are all.")


GENERATION_ID: Final = OpenApiParameter(
    "generation_id", str, "path", description="`id` of a generation that runs."
)
