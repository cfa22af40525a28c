"""Asyncio twins of the functions that have none of their own: each in a thread.

The threads of `asyncio.to_thread` are few. A twin that waits for tasks takes one of
another pool, so that those which take milliseconds never queue behind it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from . import (
    agents,
    browse,
    dead,
    decisions,
    groups,
    lookup,
    purges,
    results,
    tasks,
    topics,
    whynot,
)

P = ParamSpec("P")
R = TypeVar("R")


# About as many as there are connections on which threads wait; made as they are needed.
_waiting = ThreadPoolExecutor(50, "mesh-wait")


def _twin(
    function: Callable[P, R], pool: ThreadPoolExecutor | None = None
) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(function)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        # As `asyncio.to_thread` does, whose pool is the default one.
        call = functools.partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    return twin


aack = _twin(groups.ack)
acancel = _twin(tasks.cancel)
acreate_consumer_group = _twin(groups.create_consumer_group)
adead_groups = _twin(dead.dead_groups)
aderegister_agent = _twin(agents.deregister_agent)
adelete_topic = _twin(purges.delete_topic)
adiscard = _twin(decisions.discard)
aenqueue_many = _twin(tasks.enqueue_many)
aexplain = _twin(whynot.explain_by_id)
aget_agent = _twin(agents.get_agent)
aget_dead = _twin(dead.get_dead)
aget_task = _twin(lookup.get_task)
aheartbeat_agent = _twin(agents.heartbeat_agent)
alist_agents = _twin(agents.list_agents)
alist_dead = _twin(dead.list_dead)
alist_tasks = _twin(browse.list_tasks)
alist_topics = _twin(topics.list_topics)
amove_to_dead = _twin(dead.move_to_dead)
apause = _twin(topics.pause)
apurge_topic = _twin(purges.purge_topic)
aset_limits = _twin(topics.set_limits)
astats = _twin(topics.stats)
aread_group = _twin(groups.read_group, _waiting)
aregister_agent = _twin(agents.register_agent)
areplay = _twin(decisions.replay)
aresume = _twin(topics.resume)
atail_results = _twin(results.tail_results)
aundo = _twin(decisions.undo)
