"""Dead letters, as described."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers as s

from .basics import NULL, OPTIONAL, REPLAYS, AnyJSON
from .tasks import Moved


class Letter(s.Serializer):
    """A dead letter."""

    entry_id = s.CharField()
    id = s.CharField()
    topic = s.CharField()
    task = AnyJSON()
    error = s.DictField()
    fingerprint = s.CharField(help_text="Letters that failed alike share it.")
    attempts = s.ListField(child=s.DictField())
    replays = s.ListField(child=s.DictField(), help_text=REPLAYS)
    epoch = s.IntegerField()
    fence = s.CharField()
    enqueued_at = s.DateTimeField(**NULL)
    died_at = s.DateTimeField()


@extend_schema_serializer(many=False)
class DeadList(s.Serializer):
    """A page of dead letters."""

    dead = Letter(many=True)
    next = s.CharField(**NULL)


class Group(s.Serializer):
    """Dead letters that failed alike."""

    topic = s.CharField()
    fingerprint = s.CharField()
    count = s.IntegerField(help_text="Dead now.")
    total = s.IntegerField(help_text="Ever since the group opened.")
    first_at = s.DateTimeField()
    last_at = s.DateTimeField()
    error = s.DictField()


@extend_schema_serializer(many=False)
class GroupList(s.Serializer):
    """A page of groups."""

    groups = Group(many=True)
    next = s.CharField(**NULL)


class Discarded(Moved):
    """A letter that was put away."""

    id = s.CharField(help_text="Of its task; somebody may have written any text.")


class Replay(s.Serializer):
    """What to replay; without a body what the task was sent with."""

    task = AnyJSON(**OPTIONAL, help_text="Another payload; the old one stays readable.")
    entry_id = s.CharField(**OPTIONAL, help_text="Only this letter.")
