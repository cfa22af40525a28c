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

    def __init__(self, send: Callable[[], Any], line: _Line) -> None:
        self._send, self._line = send, line
        self.sent = False

    def __call__(self) -> None:
        if self.sent:
            return
        self.sent = True
        try:
            self._send()
        except errors.BusError as exc:
            # Those behind, which Django would not reach any more.
            hooks = [ref() for ref in self._line]
            for later in hooks[hooks.index(self) :]:
                try:
                    if later is not None:
                        later()
                except errors.BusError as other:
                    exc.add_note(f"of the same transaction: {other}")
            raise


# The hooks of one connection, in order. Weakly: what a savepoint rolled back is
# nobody's, and so gone from here.
_Line = list[weakref.ref[_Hook]]
_lines: weakref.WeakKeyDictionary[Any, _Line] = weakref.WeakKeyDictionary()


def after_commit(send: Callable[[], Any]) -> None:
    """Call `send` once the open transaction is committed, at once if there is none.

    The first BusError comes out of the commit, with the others as its notes; everything
    else of ours that waits for the same commit is sent all the same.
    """
    from django.db import transaction

    line = _lines.setdefault(transaction.get_connection(), [])
    line[:] = [ref for ref in line if _is_due(ref())]
    hook = _Hook(send, line)
    line.append(weakref.ref(hook))
    transaction.on_commit(hook)


def _is_due(hook: _Hook | None) -> bool:
    return hook is not None and not hook.sent
