"""Django's database connections, tidied where no request does it.

As a request begins and ends, Django drops connections that broke or are past their
CONN_MAX_AGE. A thread without requests would keep one that broke for ever, and fail
with it each time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from asgiref.sync import SyncToAsync
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.signals import connection_created

log = logging.getLogger("bus.agent")

# What Django raises where a database does not answer.
AWAY: Final = (OperationalError, InterfaceError)

# Threads that opened a connection and were not found without since. Empty where no
# handler uses a database: whoever looks after runs by the thousand asks here first.
opened: Final[set[int]] = set()
_shared: Final[set[int]] = set()  # the thread of async calls, once it was seen
_queued: Final[set[bool]] = set()  # what waits to be done on it, by `in_use`


def drop_old() -> None:
    """As Django does around a request, for this thread; not in a transaction."""
    for each in connections.all(initialized_only=True):
        _drop_old(each)


def tidy() -> None:
    """`drop_old` around a run on a thread of its own; next to nothing to who has none.

    What goes wrong with it is no fault of the run's.
    """
    _tidy(_drop_old)


def tidy_shared(in_use: bool) -> None:
    """The same on the thread that Django's async calls of all runs share, soon.

    Before any call that is made from now on: that thread works one by one. While it is
    `in_use` by a run that has begun, only what broke is dropped: between two calls, the
    run may be reading from a cursor.
    """
    if in_use in _queued or (_shared and opened.isdisjoint(_shared)):
        return
    _queued.add(in_use)
    SyncToAsync.single_thread_executor.submit(_on_shared, in_use)


def close() -> None:
    """Close what this thread has open, before it ends."""
    _tidy(lambda each: each.close())


def _on_shared(in_use: bool) -> None:
    # First: who comes from here on may have met what this does not see any more.
    _queued.discard(in_use)
    _shared.add(threading.get_ident())
    _tidy(_drop_broken if in_use else _drop_old)


def _tidy(how: Callable[[Any], None]) -> None:
    me = threading.get_ident()
    if me not in opened:
        return
    found: Sequence[Any] = connections.all(initialized_only=True)
    for each in found:
        each.queries_log.clear()  # Django notes queries here while DEBUG is on
        try:
            how(each)
        except Exception:
            log.warning("database %s could not be tidied", each.alias, exc_info=True)
    if all(each.connection is None for each in found):
        opened.discard(me)


def _drop_old(each: Any) -> None:
    if not each.in_atomic_block:
        each.close_if_unusable_or_obsolete()


def _drop_broken(each: Any) -> None:
    if each.connection is None or each.in_atomic_block:
        return
    each.health_check_done = False
    if each.errors_occurred and not each.is_usable():
        each.close()
    each.errors_occurred = False


def _note(**_: Any) -> None:
    opened.add(threading.get_ident())


connection_created.connect(_note)
