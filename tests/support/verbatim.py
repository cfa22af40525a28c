"""Scripts asked as they stand, beside whatever the package makes of their answers."""

from __future__ import annotations

from typing import Any, Final

import redis

from bus import keys, verbs
from tests.support.waiting import wait_until

LAST_ID: Final = "18446744073709551615-18446744073709551615"  # there is none behind it


def ask(verb: str, client: redis.Redis, topic: str, args: list[Any]) -> Any:
    script = verbs.SCRIPTS[verb]
    names = [keys.named(word, topic) for word in script.names]
    return client.eval(script.text, len(names), *names, *args)


def early_in_a_minute(client: redis.Redis) -> None:
    """Return with at least 5 s left of the server's minute: a new one has no row."""
    wait_until(lambda: client.time()[0] % 60 < 55, 10, "the next minute")
