"""A task mesh on Redis Streams: the public names."""

from __future__ import annotations

from .agents import deregister_agent, heartbeat_agent, list_agents, register_agent
from .connection import _redis_url, get_redis, get_redis_async
from .dead import (
    dead_groups,
    discard,
    get_dead,
    list_dead,
    move_to_dead,
    replay,
    undo,
)
from .errors import (
    AgentNotFound,
    BusError,
    BusUnavailable,
    Conflict,
    DeadLetterNotFound,
    DecodeError,
    GiveUp,
    HandlerError,
    InvalidName,
    InvalidOption,
    InvalidPayload,
    NotCancellable,
    NotDead,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    Retry,
    ServerError,
    ServerLocked,
    TaskConflict,
    TaskNotFound,
    TooManyTopics,
    TopicFull,
)
from .groups import ack, create_consumer_group, read_group
from .handlers import handler
from .keys import agent_key, dead_stream, result_stream, task_stream
from .lookup import get_task
from .messages import DeadLetter, Task
from .results import tail_results, wait_result
from .tasks import aenqueue_task, cancel, enqueue_many, enqueue_task
from .topics import list_topics, pause, resume, set_limits, stats

__all__ = [
    # Connections and names.
    "_redis_url",
    "agent_key",
    "dead_stream",
    "get_redis",
    "get_redis_async",
    "result_stream",
    "task_stream",
    # Tasks and results.
    "Task",
    "aenqueue_task",
    "cancel",
    "enqueue_many",
    "enqueue_task",
    "get_task",
    "tail_results",
    "wait_result",
    # Dead letters.
    "DeadLetter",
    "dead_groups",
    "discard",
    "get_dead",
    "list_dead",
    "move_to_dead",
    "replay",
    "undo",
    # Topics.
    "list_topics",
    "pause",
    "resume",
    "set_limits",
    "stats",
    # Agents.
    "GiveUp",
    "Retry",
    "ack",
    "create_consumer_group",
    "deregister_agent",
    "handler",
    "heartbeat_agent",
    "list_agents",
    "read_group",
    "register_agent",
    # Errors.
    "AgentNotFound",
    "BusError",
    "BusUnavailable",
    "Conflict",
    "DeadLetterNotFound",
    "DecodeError",
    "HandlerError",
    "InvalidName",
    "InvalidOption",
    "InvalidPayload",
    "NotCancellable",
    "NotDead",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "ServerError",
    "ServerLocked",
    "TaskConflict",
    "TaskNotFound",
    "TooManyTopics",
    "TopicFull",
]
