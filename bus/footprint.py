"""How much of the server's memory a topic takes, by what it is kept for."""

from __future__ import annotations

from typing import Final

from . import connection, keys, refusals

# What each part is, beside its keys; a letter is in its failure's group as well, whose
# keys are as many as failures and small beside the letters.
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "backlog": ("tasks_stream", "tasks", "delayed", "parked", "attempts"),
    "results": ("results", "done"),
    "dead": ("dead", "dead_index", "errors", "bin"),
    "repeats": ("seen0", "seen1"),
    "history": ("minutes", "hours", "events", "counters", "settings", "audit"),
}


def of_topic(topic: str) -> dict[str, int] | None:
    """Bytes by part (`PARTS`), in one round trip; None where the server tells none.

    The server weighs a few elements of each key, so a large one is an estimate.
    """
    keys.check_topic(topic)
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        for names in PARTS.values():
            for name in names:
                pipe.memory_usage(keys.named(name, topic))
        replies = iter(pipe.execute(raise_on_error=False))
    taken = {part: [next(replies) for _ in names] for part, names in PARTS.items()}
    if any(isinstance(each, Exception) for found in taken.values() for each in found):
        return None  # the user in REDIS_URL may not ask
    return {part: sum(each or 0 for each in found) for part, found in taken.items()}
