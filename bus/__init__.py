"""A task mesh on Redis Streams: the public names."""

from __future__ import annotations

from .address import redis_url as _redis_url
from .again import NotRunnable, run_now
from .agents import (
    deregister_agent,
    get_agent,
    heartbeat_agent,
    list_agents,
    register_agent,
)
from .browse import list_tasks
from .connection import get_redis, get_redis_async
from .dead import dead_groups, get_dead, list_dead, move_to_dead
from .decisions import discard, replay, undo
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
    LevelNotReached,
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
    TopicBusy,
    TopicFull,
    TopicNotFound,
)
from .groups import ack, create_consumer_group, read_group
from .handlers import handler
from .keys import agent_key, dead_stream, result_stream, task_stream
from .ledgers import settle_ledger
from .letters import DeadLetter
from .lookup import SeveralTopics, get_task
from .many import aenqueue_many, enqueue_many
from .messages import Task
from .purges import delete_topic, purge_topic
from .results import tail_results, wait_result
from .tasks import aenqueue_task, cancel, enqueue_task
from .topics import list_topics, pause, resume, set_limits, stats
from .twins import (
    aack,
    acancel,
    acreate_consumer_group,
    adead_groups,
    adelete_topic,
    aderegister_agent,
    adiscard,
    aexplain,
    aget_agent,
    aget_dead,
    aget_task,
    aheartbeat_agent,
    alist_agents,
    alist_dead,
    alist_tasks,
    alist_topics,
    amove_to_dead,
    apause,
    apurge_topic,
    aread_group,
    aregister_agent,
    areplay,
    aresume,
    arun_now,
    aset_limits,
    asettle_ledger,
    astats,
    atail_results,
    aundo,
)
from .waits import await_result
from .whynot import explain_by_id as explain

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
    "explain",
    "get_task",
    "list_tasks",
    "run_now",
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
    "delete_topic",
    "list_topics",
    "pause",
    "purge_topic",
    "resume",
    "set_limits",
    "settle_ledger",
    "stats",
    # Agents.
    "GiveUp",
    "Retry",
    "ack",
    "create_consumer_group",
    "deregister_agent",
    "get_agent",
    "handler",
    "heartbeat_agent",
    "list_agents",
    "read_group",
    "register_agent",
    # Asyncio twins.
    "aack",
    "acancel",
    "acreate_consumer_group",
    "adead_groups",
    "adelete_topic",
    "aderegister_agent",
    "adiscard",
    "aenqueue_many",
    "aexplain",
    "aget_agent",
    "aget_dead",
    "aget_task",
    "aheartbeat_agent",
    "alist_agents",
    "alist_dead",
    "alist_tasks",
    "alist_topics",
    "amove_to_dead",
    "apause",
    "apurge_topic",
    "aread_group",
    "aregister_agent",
    "areplay",
    "aresume",
    "arun_now",
    "atail_results",
    "aset_limits",
    "asettle_ledger",
    "astats",
    "aundo",
    "await_result",
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
    "NotRunnable",
    "LevelNotReached",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "ServerError",
    "ServerLocked",
    "SeveralTopics",
    "TaskConflict",
    "TaskNotFound",
    "TooManyTopics",
    "TopicBusy",
    "TopicFull",
    "TopicNotFound",
]
