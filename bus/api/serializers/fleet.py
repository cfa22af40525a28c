"""Agents, topics and health, as described."""

from __future__ import annotations

from typing import Final

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers as s

from bus import agents, leases, purges, topics

from .. import lending
from .basics import AGENT, NULL, OPTIONAL
from .leases import Delivery, Outcome

AGENT_STATES: Final = list(agents.STATES)


class Registration(s.Serializer):
    """An agent that registers."""

    agent_id = s.RegexField(AGENT, max_length=128)
    agent_type = s.CharField(max_length=64)
    ttl_seconds = s.FloatField(**OPTIONAL, default=60, min_value=0, max_value=86400)
    meta = s.DictField(**OPTIONAL, help_text="Anything, shown to operators.")
    lease_s = s.IntegerField(
        **OPTIONAL,
        default=15,
        min_value=15,
        max_value=leases.LEASE_MOST_S,
        help_text="Of claims over HTTP: how long it may be silent about a task.",
    )


class Heartbeat(s.Serializer):
    """For how long to stay registered, and which tasks to keep."""

    ttl_seconds = s.FloatField(**OPTIONAL, default=60, min_value=0, max_value=86400)
    deliveries = s.ListField(
        child=Delivery(), **OPTIONAL, max_length=lending.DELIVERIES_MOST
    )


class Beat(s.Serializer):
    """A registration that was kept, and how its deliveries stand."""

    agent_id = s.CharField()
    deliveries = Outcome(many=True)
    expires_in_s = s.FloatField()
    drain = s.BooleanField(help_text="Whether to finish what is in hand, and stop.")


class Share(s.Serializer):
    """What an agent tells of one of its topics."""

    slots = s.IntegerField(**NULL, help_text="Tasks it runs at once.")
    in_flight = s.IntegerField(**NULL)
    run_s = s.FloatField(
        **NULL, help_text="Mean run time of a task; null before one has ended."
    )
    why = s.ChoiceField(
        ["stuck", "alone"],
        **NULL,
        help_text="Why it takes none for now: runs that hang, or a task to run alone.",
    )


class Agent(s.Serializer):
    """An agent as it was last seen; null where it told nothing."""

    agent_id = s.CharField()
    agent_type = s.CharField(**NULL)
    meta = s.DictField()
    state = s.ChoiceField(AGENT_STATES)
    expires_in_s = s.FloatField()
    last_beat_at = s.DateTimeField()
    topics = s.ListField(child=s.CharField())
    per_topic = s.DictField(
        child=Share(), help_text="By topic; empty where the agent does not tell."
    )
    consumer = s.CharField(**NULL)
    slots = s.IntegerField(**NULL)
    in_flight = s.IntegerField(**NULL)
    done = s.IntegerField(**NULL)
    failed = s.IntegerField(**NULL)
    ended_per_minute = s.FloatField(
        **NULL, help_text="Attempts that ended, done or failed, over the last minute."
    )
    rss_bytes = s.IntegerField(**NULL)
    cpu = s.FloatField(**NULL)
    version = s.CharField(**NULL)
    host = s.CharField(**NULL)
    pid = s.IntegerField(**NULL)
    started_at = s.DateTimeField(**NULL)
    last_read_at = s.DateTimeField(**NULL)
    lease_s = s.IntegerField(**NULL, help_text="Of agents over HTTP.")
    namesake = s.CharField(
        **NULL, help_text="Another process that lives under this id, by mistake."
    )


@extend_schema_serializer(many=False)
class AgentList(s.Serializer):
    """A page of agents."""

    agents = Agent(many=True)
    next = s.CharField(**NULL)


class Ledger(s.Serializer):
    """What came and where it is; `drift` is 0, or something was lost."""

    came = s.IntegerField()
    live = s.IntegerField()
    ended = s.IntegerField()
    settled = s.IntegerField(help_text="Entered by a person where it was off.")
    drift = s.IntegerField()


def _limit(name: str, kind: type[s.Field] = s.IntegerField) -> s.Field:
    least, most = topics.LIMITS[name]
    return kind(**OPTIONAL, **NULL, min_value=least, max_value=most)


class Topic(s.Serializer):
    """A topic as it stands: what it holds now, what it ever counted, its limits."""

    topic = s.CharField()
    group = s.CharField(**NULL)
    waiting = s.IntegerField()
    delayed = s.IntegerField()
    running = s.IntegerField()
    backlog = s.IntegerField()
    dead = s.IntegerField()
    dead_groups = s.IntegerField()
    results = s.IntegerField()
    paused = s.BooleanField()
    readers = s.IntegerField(
        help_text="Agents by hand and over HTTP that asked for tasks in the last 15 s, "
        "registered or not; those of the runtime are all registered."
    )
    oldest_s = s.FloatField(**NULL, help_text="Age of the oldest waiting task.")
    accepted = s.IntegerField()
    adopted = s.IntegerField()
    repeated = s.IntegerField()
    done = s.IntegerField()
    retried = s.IntegerField()
    died = s.IntegerField()
    lost = s.IntegerField()
    replayed = s.IntegerField()
    discarded = s.IntegerField(help_text="Letters put away, and not restored since.")
    restored = s.IntegerField(help_text="Letters that an undo brought back.")
    cancelled = s.IntegerField()
    orphans = s.IntegerField()
    repaired = s.IntegerField(
        help_text="Mended by the audit; 0 unless keys were changed by hand."
    )
    repaired_at = s.CharField(**NULL, help_text="When the audit last mended something.")
    settled = s.IntegerField()
    settled_at = s.CharField(**NULL, help_text="When its ledger was last settled.")
    unmended = s.IntegerField(
        help_text="Wounds the audit saw and could not close, such as a task that is "
        "live and done."
    )
    ledger = Ledger()
    backlog_max = s.IntegerField()
    results_keep = s.IntegerField()
    dead_max = s.IntegerField()
    max_attempts = s.IntegerField()
    timeout_s = s.FloatField()
    done_per_minute = s.FloatField()
    dead_per_minute = s.FloatField()
    wait_p50_ms = s.IntegerField(
        **NULL, help_text="Of tasks done in 15 minutes, up to the next power of two."
    )
    wait_p99_ms = s.IntegerField(**NULL)
    run_p50_ms = s.IntegerField(**NULL)
    run_p99_ms = s.IntegerField(**NULL)


@extend_schema_serializer(many=False)
class TopicList(s.Serializer):
    """A page of topics."""

    topics = Topic(many=True)
    next = s.CharField(**NULL)


class TopicChange(s.Serializer):
    """What to change of a topic; null returns a limit to its default."""

    paused = s.BooleanField(**OPTIONAL)
    backlog_max = _limit("backlog_max")
    results_keep = _limit("results_keep")
    dead_max = _limit("dead_max")
    max_attempts = _limit("max_attempts")
    timeout_s = _limit("timeout_s", s.FloatField)


class Purge(s.Serializer):
    """What to empty a topic of."""

    what = s.ChoiceField(list(purges.WHAT), **OPTIONAL, default="waiting")


class Purged(s.Serializer):
    """How many tasks were cancelled, asked to stop, and letters discarded."""

    topic = s.CharField()
    cancelled = s.IntegerField()
    asked = s.IntegerField()
    discarded = s.IntegerField()


class Settled(s.Serializer):
    """What the ledger was off by and is settled with; 0 if it balances."""

    topic = s.CharField()
    settled = s.IntegerField()


class Deleted(s.Serializer):
    """How many tasks ended with their topic."""

    topic = s.CharField()
    cancelled = s.IntegerField()
    discarded = s.IntegerField()


class Check(s.Serializer):
    """One finding; what it says only for who may read."""

    name = s.CharField()
    status = s.ChoiceField(["ok", "warn", "bad"])
    why = s.CharField(**OPTIONAL, help_text="In one word, why it is not ok.")
    says = s.CharField(**OPTIONAL)
    hint = s.CharField(**OPTIONAL)


class TopicLedger(Ledger):
    """The ledger of a topic."""

    topic = s.CharField()


@extend_schema_serializer(many=False)
class Health(s.Serializer):
    """How the mesh is; the ledgers only for who may read."""

    status = s.ChoiceField(["ok", "degraded", "down"])
    checks = Check(many=True)
    ledgers = TopicLedger(many=True, **OPTIONAL)


class Alive(s.Serializer):
    """Whether it is."""

    status = s.ChoiceField(["ok", "down"])
    why = s.ListField(
        child=s.CharField(), **OPTIONAL, help_text="What keeps it from working."
    )
