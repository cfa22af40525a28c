"""Deliveries of agents over HTTP, as described."""

from __future__ import annotations

from typing import Any, Final

from rest_framework import serializers as s

from bus import messages

from .. import lending
from .basics import AGENT, NULL, OPTIONAL, TOPIC, AnyJSON

_SOME: Final[dict[str, Any]] = {"min_length": 1, "max_length": lending.DELIVERIES_MOST}
_FENCE: Final = r"^[0-9]{1,20}-[0-9]{1,20}\.[0-9]{1,9}$"
OUTCOMES: Final = ["ok", "duplicate", "fenced", "cancelled", "timeout", "gone"]


class Claim(s.Serializer):
    """What an agent wants."""

    agent_id = s.RegexField(AGENT, max_length=128)
    count = s.IntegerField(
        **OPTIONAL, default=1, min_value=1, max_value=lending.DELIVERIES_MOST
    )
    wait_s = s.FloatField(
        **OPTIONAL, default=0, min_value=0, max_value=lending.WAIT_MOST_S
    )
    claim_id = s.CharField(
        **OPTIONAL, max_length=128, help_text="Names this claim for its repeats."
    )


class Lent(s.Serializer):
    """A task in an agent's hand."""

    fence = s.RegexField(_FENCE, help_text="Grows with every delivery of the task.")
    id = s.UUIDField()
    topic = s.CharField()
    task = AnyJSON()
    attempt = s.IntegerField(help_text="Counted from 1.")
    epoch = s.IntegerField(help_text="Replays so far.")
    timeout_s = s.FloatField(**NULL, help_text="Of an attempt; null: as you like.")
    lease_s = s.IntegerField(help_text="Renew it within this time.")


class Claimed(s.Serializer):
    """What came."""

    deliveries = Lent(many=True)
    drain = s.BooleanField(help_text="Whether to finish what is in hand, and stop.")


class Delivery(s.Serializer):
    """A delivery, by what it came with."""

    topic = s.RegexField(TOPIC, max_length=64)
    id = s.UUIDField()
    fence = s.RegexField(_FENCE)


class Deliveries(s.Serializer):
    """Deliveries of any topics."""

    deliveries = s.ListField(child=Delivery(), **_SOME)


class Completion(Delivery):
    """A delivery that is done."""

    result = AnyJSON(help_text="Any JSON up to 1 MiB.")


class Completions(s.Serializer):
    """Deliveries that are done."""

    deliveries = s.ListField(child=Completion(), **_SOME)


class Error(s.Serializer):
    """What went wrong; equal types and messages make one failure group."""

    type = s.CharField()
    message = s.CharField(allow_blank=True, help_text="1,024 characters are kept.")
    traceback = s.CharField(
        **OPTIONAL, allow_blank=True, help_text="The last 4 KiB are kept."
    )


class Failure(Delivery):
    """An attempt that failed."""

    error = Error()
    delay_s = s.FloatField(
        **OPTIONAL, min_value=0, max_value=31622400, help_text="Else a backoff."
    )
    final = s.BooleanField(**OPTIONAL, default=False)


class Failures(s.Serializer):
    """Attempts that failed."""

    deliveries = s.ListField(child=Failure(), **_SOME)


class Outcome(Delivery):
    """What became of a delivery."""

    outcome = s.ChoiceField(OUTCOMES)
    state = s.ChoiceField(
        [messages.DELAYED, messages.DEAD], **OPTIONAL, help_text="Of a failed attempt."
    )


class Outcomes(s.Serializer):
    """What became of each delivery, in their order."""

    deliveries = Outcome(many=True)
