"""Deliveries of agents over HTTP: claimed, ended, renewed, given back."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import roles

from .. import examples, lending, serializers
from .base import MeshViewSet


class LeaseViewSet(MeshViewSet):
    """`POST topics/{topic}/claim`, `POST deliveries/complete|fail|extend|release`."""

    verbs = dict.fromkeys(
        ("claim", "complete", "fail", "extend", "release"), (roles.SERVE,)
    )
    hot = frozenset(verbs)

    @extend_schema(
        operation_id="claim",
        summary="Take tasks",
        tags=["deliveries"],
        parameters=[serializers.TOPIC_IN_PATH],
        request=serializers.Claim,
        responses={200: serializers.Claimed},
        examples=examples.CLAIM,
    )
    def claim(self, request: Any, topic: str) -> Response:
        """Up to `count` tasks for a registered agent, which holds each for `lease_s`.

        Without a task it waits up to `wait_s` for the first. The same `claim_id` again
        gives the same deliveries as far as they are still held, so a lost answer loses
        nothing; take a new one for each claim. A task that its agents were lost with
        twice comes alone, to an agent that holds nothing else of the topic. Nothing
        new comes while the topic is paused, or once the agent is to `drain`.
        """
        # The wait is in front, in waiting.py.
        return Response(lending.claim(self.who, topic, self.body()))

    @extend_schema(
        operation_id="complete_deliveries",
        summary="Tasks are done",
        tags=["deliveries"],
        request=serializers.Completions,
        responses={200: serializers.Outcomes},
        examples=examples.COMPLETIONS,
    )
    def complete(self, request: Any) -> Response:
        """End deliveries with their results, of any topics, each for itself.

        `ok`; `duplicate` where this fence has ended its task before, so a repeat is
        safe; `fenced` where the delivery is not held any more; `cancelled` where the
        task was; `gone` where nobody knows it.
        """
        return Response(lending.complete(self.who, self.body()))

    @extend_schema(
        operation_id="fail_deliveries",
        summary="Attempts failed",
        tags=["deliveries"],
        request=serializers.Failures,
        responses={200: serializers.Outcomes},
        examples=examples.FAILURES,
    )
    def fail(self, request: Any) -> Response:
        """End attempts as failed: `ok` with the `state` of the task, delayed or dead.

        It is tried again after `delay_s`, or a backoff, while it has attempts left;
        `final` says that no further attempt can help. The other outcomes are those of
        complete.
        """
        return Response(lending.fail(self.who, self.body()))

    @extend_schema(
        operation_id="extend_deliveries",
        summary="Keep tasks longer",
        tags=["deliveries"],
        request=serializers.Deliveries,
        responses={200: serializers.Outcomes},
        examples=examples.DELIVERIES,
    )
    def extend(self, request: Any) -> Response:
        """Begin the lease of each delivery anew, as a heartbeat with `deliveries` does.

        `cancelled` tells to stop: the lease goes on, and whatever is reported but a
        completion ends the task cancelled. `timeout` is not renewed: the time that its
        task or topic sets for an attempt is over.
        """
        return Response(lending.extend(self.who, self.body()))

    @extend_schema(
        operation_id="release_deliveries",
        summary="Give tasks back",
        tags=["deliveries"],
        request=serializers.Deliveries,
        responses={200: serializers.Outcomes},
        examples=examples.DELIVERIES,
    )
    def release(self, request: Any) -> Response:
        """Give deliveries back unfinished, to their old place; costs no attempt."""
        return Response(lending.release(self.who, self.body()))
