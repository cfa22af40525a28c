"""A ledger that is off, settled by a person who knows why."""

from __future__ import annotations

import logging
import secrets
from typing import Final

from . import auditor, errors, scripts, topics

log = logging.getLogger("bus.ledgers")

_TRIES: Final = 5  # of a topic whose ledger changes while it is looked at
_NAMED_MOST: Final = 3  # wounds in a sentence


def settle_ledger(topic: str) -> int:
    """Enter what the ledger is off by as `settled`, so that it balances; that number.

    Above 0: so many tasks came and are nowhere. Below: so many are there, or ended, and
    never came. The audit looks through the whole topic before (some 4 s per 100,000
    tasks and round): what can still be found is not settled, and 0 if nothing is left.
    TopicNotFound; Conflict while a task is in two states: decide which is true before.
    """
    topics.check_known(topic)
    mark = secrets.token_hex(8)
    for _ in range(_TRIES):
        found = auditor.audit(topic)
        if found.seen:
            some = ", ".join(found.seen[:_NAMED_MOST])
            raise errors.Conflict(
                f"tasks of topic {topic!r} are in two states at once ({some}): "
                "decide which is true before its ledger is settled"
            )
        if not found.drift:
            return 0
        settled, off = map(int, scripts.run("settle", topic, [found.drift, mark]))
        if settled:
            log.warning("%s: the ledger was off by %+d and is settled", topic, off)
            return off
        # A task came, or was found again, in a way the books do not know of.
    raise errors.Conflict(
        f"the ledger of topic {topic!r} goes on changing: somebody writes into its keys"
    )
