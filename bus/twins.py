"""Asyncio twins of the functions that have none of their own: each in a thread.

The threads of `asyncio.to_thread` are few: the twin that waits for tasks takes one of
another pool, so that those which take milliseconds never queue behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from . import (
    again,
    agents,
    browse,
    dead,
    decisions,
    groups,
    ledgers,
    lookup,
    purges,
    results,
    tasks,
    topics,
    whynot,
)

P = ParamSpec("P")
R = TypeVar("R")


# For calls that wait for tasks: about as many as there are connections to wait on.
def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(50, "mesh-wait")


_waiting = _new_pool()


def _anew() -> None:
    """In a forked child: the threads that this pool counts as idle are its parent's."""
    global _waiting
    _waiting = _new_pool()


os.register_at_fork(after_in_child=_anew)


def _twin(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(function)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    return twin


async def aread_group(
    topic: str, group: str, consumer: str, count: int = 1, block_ms: int = 1000
) -> list[tuple[str, dict[str, Any]]]:
    """`read_group` for asyncio; what comes after it was cancelled is given back."""
    gone = threading.Event()
    who = (topic, group, consumer)
    reading = _waiting.submit(
        groups.read_while, lambda: not gone.is_set(), *who, count, block_ms
    )
    try:
        return await asyncio.wrap_future(reading)
    except asyncio.CancelledError:
        # Its thread reads on for up to a second, or has just taken what nobody got.
        gone.set()
        reading.add_done_callback(functools.partial(_give_back, *who))
        raise


def _give_back(topic: str, group: str, consumer: str, reading: Future[Any]) -> None:
    """Called where the reading ends, which may be an event loop: no waiting here."""
    if reading.cancelled() or reading.exception() or not reading.result():
        return
    with contextlib.suppress(RuntimeError):  # the process ends; leases see to it
        _waiting.submit(groups.give_back, topic, group, consumer, reading.result())


aack = _twin(groups.ack)
acancel = _twin(tasks.cancel)
acreate_consumer_group = _twin(groups.create_consumer_group)
adead_groups = _twin(dead.dead_groups)
aderegister_agent = _twin(agents.deregister_agent)
adelete_topic = _twin(purges.delete_topic)
adiscard = _twin(decisions.discard)
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
asettle_ledger = _twin(ledgers.settle_ledger)
aset_limits = _twin(topics.set_limits)
astats = _twin(topics.stats)
aregister_agent = _twin(agents.register_agent)
areplay = _twin(decisions.replay)
aresume = _twin(topics.resume)
arun_now = _twin(again.run_now)
atail_results = _twin(results.tail_results)
aundo = _twin(decisions.undo)
