"""Tasks and results, as described."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers as s

from .basics import NULL, OPTIONAL, REPLAYS, STATES, TOPIC, AnyJSON, Problem

AGAIN = "The ended task that this one was sent again for."
DURABILITY = r"^(memory|aof|fsync|replicated:[1-9])$"


class Enqueue(s.Serializer):
    """A task to be sent."""

    topic = s.RegexField(TOPIC, max_length=64)
    task = AnyJSON(help_text="The payload: any JSON up to 256 KiB.")
    id = s.UUIDField(**OPTIONAL, help_text="Chosen by you: the same id is one task.")
    delay_s = s.FloatField(
        **OPTIONAL, min_value=0, max_value=316224000, help_text="Not with run_at."
    )
    run_at = s.DateTimeField(**OPTIONAL, help_text="When to start; not with delay_s.")
    max_attempts = s.IntegerField(**OPTIONAL, min_value=1, max_value=1000)
    timeout_s = s.FloatField(**OPTIONAL, min_value=0.001, max_value=604800)
    durability = s.RegexField(
        DURABILITY, **OPTIONAL, help_text="To be reached before the answer."
    )
    maxlen = s.IntegerField(
        **OPTIONAL, min_value=1, help_text="Refuse where the backlog is as long."
    )


class Enqueued(s.Serializer):
    """A task that was accepted."""

    id = s.UUIDField()
    topic = s.CharField()
    state = s.ChoiceField(STATES)
    durability = s.RegexField(DURABILITY, help_text="What this answer means.")


class Batch(s.Serializer):
    """Tasks to be sent."""

    tasks = s.ListField(child=Enqueue(), min_length=1, max_length=1000)


class BatchResult(s.Serializer):
    """What became of one task of a batch."""

    index = s.IntegerField()
    status = s.IntegerField()
    id = s.UUIDField(**OPTIONAL)
    topic = s.CharField(**OPTIONAL)
    state = s.ChoiceField(STATES, **OPTIONAL)
    durability = s.CharField(**OPTIONAL)
    error = Problem(**OPTIONAL)


class BatchOutcome(s.Serializer):
    """What became of each task, in their order."""

    results = BatchResult(many=True)


class TaskRow(s.Serializer):
    """A task as it stands."""

    id = s.UUIDField()
    topic = s.CharField()
    state = s.ChoiceField(STATES)
    task = AnyJSON()
    attempt = s.IntegerField(help_text="Executions so far; lost ones count apart.")
    epoch = s.IntegerField(help_text="Replays so far.")
    agent = s.CharField(**NULL)
    enqueued_at = s.DateTimeField(**NULL)
    due_at = s.DateTimeField(**NULL)
    started_at = s.DateTimeField(**NULL)
    ended_at = s.DateTimeField(**NULL)
    max_attempts = s.IntegerField(**NULL, help_text="Its own; null: the topic's.")
    timeout_s = s.FloatField(**NULL)
    cancel_requested = s.BooleanField()
    attempts = s.ListField(child=s.DictField(), help_text="Failed ones, oldest first.")
    replays = s.ListField(child=s.DictField(), help_text=REPLAYS)
    again_of = s.CharField(**NULL, help_text=AGAIN)
    result = AnyJSON(**OPTIONAL, help_text="Once it is done.")
    error = s.DictField(**OPTIONAL, help_text="Of which it died.")


class TimelineRow(s.Serializer):
    """Something that happened to a task."""

    at = s.DateTimeField(**NULL)
    what = s.CharField()
    agent = s.CharField(**NULL)
    detail = s.CharField(**NULL)


class TaskPage(TaskRow):
    """One task in full."""

    timeline = TimelineRow(many=True)
    explain = s.CharField(help_text="Why it is not running, or how it ended.")


@extend_schema_serializer(many=False)
class TaskList(s.Serializer):
    """A page of tasks."""

    tasks = TaskRow(many=True)
    next = s.CharField(**NULL)


class Moved(s.Serializer):
    """A task that changed its state."""

    id = s.UUIDField()
    topic = s.CharField()
    state = s.ChoiceField(STATES)


class Ran(Moved):
    """The task that runs now: the same one, or a new one for one that has ended."""

    again_of = s.UUIDField(**NULL, help_text=AGAIN)


class Cancelled(Moved):
    """A task that is cancelled, or runs and is told to stop."""


class ResultRow(s.Serializer):
    """A result; agents that write by hand may leave fields out."""

    entry_id = s.CharField()
    id = s.CharField(**NULL)
    topic = s.CharField()
    state = s.CharField()
    task = AnyJSON()
    result = AnyJSON()
    agent = s.CharField(**NULL)
    attempt = s.IntegerField(**NULL)
    fence = s.CharField(**NULL)
    enqueued_at = s.DateTimeField(**NULL)
    started_at = s.DateTimeField(**NULL)
    finished_at = s.DateTimeField(**NULL)
    epoch = s.IntegerField(help_text="Replays so far.")
    attempts = s.ListField(child=s.DictField(), help_text="Failed ones, oldest first.")
    replays = s.ListField(child=s.DictField(), help_text=REPLAYS)
    max_attempts = s.IntegerField(**NULL, help_text="Its own; null: the topic's.")
    timeout_s = s.FloatField(**NULL)
    again_of = s.CharField(**NULL, help_text=AGAIN)


@extend_schema_serializer(many=False)
class ResultList(s.Serializer):
    """A page of results."""

    results = ResultRow(many=True)
    next = s.CharField(**NULL)
