"""Bulk replays, as described."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_serializer
from rest_framework import serializers as s

from bus.bulk import pace, record

from .basics import FINGERPRINT, NULL, OPTIONAL

REPLAY_ID: Final = OpenApiParameter("job_id", OpenApiTypes.UUID, "path")
_MAYBE: Final[dict[str, Any]] = {**OPTIONAL, **NULL}


class BulkPace(s.Serializer):
    """How fast a bulk replay goes, and when it stops itself."""

    rate = s.FloatField(
        **_MAYBE,
        min_value=pace.RATE_LEAST,
        max_value=pace.RATE_MOST,
        help_text="Letters per second; null: as fast as it goes.",
    )
    canary = s.BooleanField(
        **OPTIONAL,
        help_text="One letter, ten, then the rest: each step once the outcomes of the "
        "one before are known.",
    )
    max_failure_rate = s.FloatField(
        **_MAYBE,
        min_value=0,
        max_value=1,
        help_text="It stops where more of a step are dead again (behind the canary: of "
        "20 to 200 outcomes). 0.1 of a canary that names none; null: never.",
    )


class NewBulkReplay(BulkPace):
    """Which letters to replay, and how."""

    topics = s.ListField(child=s.CharField(), **OPTIONAL)
    ids = s.ListField(
        child=s.UUIDField(), **OPTIONAL, help_text="Of tasks; without a filter."
    )
    group = s.RegexField(FINGERPRINT, **OPTIONAL, help_text="A `fingerprint`.")
    error = s.CharField(
        **OPTIONAL, allow_blank=True, help_text="What the error says, in any case."
    )
    since = s.DateTimeField(**OPTIONAL, help_text="Died at this time or later.")
    until = s.DateTimeField(**OPTIONAL, help_text="Died before this time.")
    dry_run = s.BooleanField(**OPTIONAL, help_text="Write nothing, tell what it is of.")
    start = s.BooleanField(
        **OPTIONAL, default=True, help_text="False: freeze them, and wait for `resume`."
    )


class BulkTopic(s.Serializer):
    """Letters of one topic."""

    topic = s.CharField()
    count = s.IntegerField()


class BulkGroup(s.Serializer):
    """Letters of one failure."""

    topic = s.CharField()
    fingerprint = s.CharField(allow_blank=True)
    count = s.IntegerField()
    error = s.DictField()


class BulkSample(s.Serializer):
    """One of the first letters."""

    id = s.CharField(allow_blank=True)
    topic = s.CharField()
    died_at = s.DateTimeField()
    error = s.DictField()


class ReplayPreview(s.Serializer):
    """What a bulk replay would be of."""

    selection = s.DictField(help_text="What was named; of ids how many.")
    total = s.IntegerField()
    missing = s.IntegerField(help_text="Ids that are no dead letters.")
    topics = BulkTopic(many=True)
    groups = BulkGroup(many=True, help_text="The largest 50.")
    sample = BulkSample(many=True, help_text="The first five.")
    oldest_at = s.CharField(allow_blank=True, help_text="Empty where there is none.")
    newest_at = s.CharField(allow_blank=True)


class BulkCounts(s.Serializer):
    """What became of its letters."""

    todo = s.IntegerField(help_text="To come.")
    replayed = s.IntegerField(help_text="Back at work, or ended since.")
    open = s.IntegerField(help_text="Of these, not ended.")
    done = s.IntegerField()
    dead = s.IntegerField(help_text="Dead again.")
    cancelled = s.IntegerField()
    unknown = s.IntegerField(help_text="Ended; the result was trimmed before a look.")
    skipped = s.IntegerField(help_text="Replayed or discarded by others first.")
    failed = s.IntegerField(help_text="Cannot be replayed.")
    left = s.IntegerField(help_text="Left dead, since it was cancelled.")


class NotDone(s.Serializer):
    """A letter that was not done again."""

    topic = s.CharField()
    id = s.CharField(allow_blank=True)
    what = s.ChoiceField(["dead", "cancelled", "unknown", "skipped", "failed"])
    why = s.CharField(**NULL)


class BulkReplayRow(s.Serializer):
    """A bulk replay as it stands; counts are at most seconds old."""

    id = s.UUIDField()
    state = s.ChoiceField(list(record.STATES))
    why = s.CharField(**NULL, help_text="It is paused, stopped or ended.")
    by = s.CharField(**NULL)
    created_at = s.DateTimeField()
    started_at = s.DateTimeField(**NULL)
    ended_at = s.DateTimeField(**NULL, help_text="Or when it was paused or stopped.")
    selection = s.DictField()
    total = s.IntegerField()
    topics = BulkTopic(many=True)
    groups = BulkGroup(many=True)
    sample = BulkSample(many=True)
    oldest_at = s.DateTimeField()
    newest_at = s.DateTimeField()
    rate = s.FloatField(**NULL)
    canary = s.BooleanField()
    max_failure_rate = s.FloatField(**NULL)
    step = s.CharField(**NULL, help_text="Of its canary.")
    counts = BulkCounts()


class BulkReplay(BulkReplayRow):
    """A bulk replay, with the letters that were not done again."""

    letters = NotDone(many=True, help_text="The first 1,000.")


@extend_schema_serializer(many=False)
class BulkReplayList(s.Serializer):
    """A page of bulk replays."""

    replays = BulkReplayRow(many=True)
    next = s.CharField(**NULL)
