"""Tasks that wait for the open database transaction.

Django runs hooks in their order and stops at the first that fails, while the rows of
all are in the database. A refused task must not take the ones behind it along.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from . import errors


class _Hook:
    """Sends one task, once; Django holds it until the commit, a rollback lets it go."""

    def __init__(self, send: Callable[[], Any]) -> None:
        self._send = send
        self.sent = False

    def __call__(self) -> None:
        if self.sent:
            return
        self.sent = True
        try:
            self._send()
        except errors.BusError as exc:
            for later in _behind(self):
                try:
                    later()
                except errors.BusError as other:
                    exc.add_note(f"of the same transaction: {other}")
            raise


# Weakly: what a savepoint rolled back is nobody's, and so gone from here.
_waiting: weakref.WeakKeyDictionary[Any, list[weakref.ref[_Hook]]] = (
    weakref.WeakKeyDictionary()
)


def after_commit(send: Callable[[], Any]) -> None:
    """Call `send` once the open transaction is committed, at once if there is none.

    The first BusError comes out of the commit, with the others as its notes; everything
    else of ours that waits for the same commit is sent all the same.
    """
    from django.db import transaction

    hook = _Hook(send)
    connection = transaction.get_connection()
    kept = [ref for ref in _waiting.get(connection, ()) if _is_due(ref())]
    _waiting[connection] = [*kept, weakref.ref(hook)]
    transaction.on_commit(hook)


def _behind(hook: _Hook) -> list[_Hook]:
    """The hooks of the same commit that Django would not reach any more."""
    for refs in list(_waiting.values()):
        hooks = [ref() for ref in refs]
        if hook in hooks:
            place = hooks.index(hook)
            return [each for each in hooks[place:] if each is not None]
    return []


def _is_due(hook: _Hook | None) -> bool:
    return hook is not None and not hook.sent
