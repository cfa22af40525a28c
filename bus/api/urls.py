"""Routes of the REST API, below /api/v1/mesh/; no trailing slashes."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from . import gateway_door
from .views.agents import AgentViewSet
from .views.audit import AuditViewSet
from .views.dead import DeadViewSet
from .views.docs import SchemaViewSet, docs
from .views.enqueue import EnqueueViewSet
from .views.generations import GenerationViewSet
from .views.health import HealthViewSet
from .views.leases import LeaseViewSet
from .views.metrics import MetricsViewSet
from .views.replays import ReplayViewSet
from .views.results import ResultViewSet
from .views.tasks import TaskViewSet
from .views.tokens import TokenViewSet
from .views.topics import TopicViewSet

_agents = AgentViewSet.as_view({"get": "list", "post": "create"})
_agent = AgentViewSet.as_view({"get": "retrieve", "delete": "destroy"})
_topic = TopicViewSet.as_view(
    {"get": "retrieve", "patch": "partial_update", "delete": "destroy"}
)
_letter = DeadViewSet.as_view({"get": "retrieve", "delete": "destroy"})
_replays = ReplayViewSet.as_view({"get": "list", "post": "create"})
_replay = ReplayViewSet.as_view({"get": "retrieve", "delete": "destroy"})
_tokens = TokenViewSet.as_view({"get": "list", "post": "create"})
_token = TokenViewSet.as_view({"get": "retrieve", "delete": "destroy"})

urlpatterns: list[URLPattern | URLResolver] = [
    path("enqueue", EnqueueViewSet.as_view({"post": "create"})),
    path("enqueue/batch", EnqueueViewSet.as_view({"post": "batch"})),
    path("results", ResultViewSet.as_view({"get": "list"})),
    path("results/stream", ResultViewSet.as_view({"get": "stream"})),
    path("tasks", TaskViewSet.as_view({"get": "list"})),
    path("tasks/<str:task_id>", TaskViewSet.as_view({"get": "retrieve"})),
    path("tasks/<str:task_id>/cancel", TaskViewSet.as_view({"post": "cancel"})),
    path("tasks/<str:task_id>/run", TaskViewSet.as_view({"post": "run"})),
    path("agents", _agents),
    path("agents/<str:agent_id>", _agent),
    path(
        "agents/<str:agent_id>/heartbeat", AgentViewSet.as_view({"post": "heartbeat"})
    ),
    path("agents/<str:agent_id>/drain", AgentViewSet.as_view({"post": "drain"})),
    path("topics/<str:topic>/claim", LeaseViewSet.as_view({"post": "claim"})),
    path("deliveries/complete", LeaseViewSet.as_view({"post": "complete"})),
    path("deliveries/fail", LeaseViewSet.as_view({"post": "fail"})),
    path("deliveries/extend", LeaseViewSet.as_view({"post": "extend"})),
    path("deliveries/release", LeaseViewSet.as_view({"post": "release"})),
    path("topics", TopicViewSet.as_view({"get": "list"})),
    path("topics/<str:topic>", _topic),
    path("topics/<str:topic>/purge", TopicViewSet.as_view({"post": "purge"})),
    path("topics/<str:topic>/settle", TopicViewSet.as_view({"post": "settle"})),
    path("dead", DeadViewSet.as_view({"get": "list"}), name="api-dead"),
    path("dead/groups", DeadViewSet.as_view({"get": "groups"})),
    path("dead/<str:task_id>", _letter),
    path("dead/<str:task_id>/replay", DeadViewSet.as_view({"post": "replay"})),
    path("dead/<str:task_id>/undo", DeadViewSet.as_view({"post": "undo"})),
    path("replays", _replays),
    path("replays/<str:job_id>", _replay),
    path("replays/<str:job_id>/pause", ReplayViewSet.as_view({"post": "pause"})),
    path("replays/<str:job_id>/resume", ReplayViewSet.as_view({"post": "resume"})),
    path("tokens", _tokens),
    path("tokens/<str:key>", _token),
    path("audit", AuditViewSet.as_view({"get": "list"}), name="api-audit"),
    path("health", HealthViewSet.as_view({"get": "list"})),
    path("health/live", HealthViewSet.as_view({"get": "live"})),
    path("health/ready", HealthViewSet.as_view({"get": "ready"})),
    path("metrics", MetricsViewSet.as_view({"get": "list"})),
    path("schema", SchemaViewSet.as_view({"get": "retrieve"})),
    path("docs", docs),
    path("ollama/generations", GenerationViewSet.as_view({"get": "list"})),
    path(
        "ollama/generations/<str:generation_id>",
        GenerationViewSet.as_view({"delete": "destroy"}),
    ),
    *gateway_door.urlpatterns,
]
