"""The pulse of a web server: whether Redis was there all the time."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import redis

from .. import connection, errors
from ..conf import conf

log = logging.getLogger("bus.janitor")


class Pulse(threading.Thread):
    """Asks Redis for a sign of life as often as an agent beats, until closed.

    What agents know by their beats a janitor of a web server has to know as well: after
    an outage of the server everybody looks dead.
    """

    # Nobody counts for it: a web server looks once a second however many agents do.
    alive = 0

    def __init__(self) -> None:
        super().__init__(name="mesh-pulse", daemon=True)
        self._closed = threading.Event()
        self._since: float | None = None

    @property
    def steady_s(self) -> float:
        """Seconds of unbroken signs of life."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def hurry(self) -> None:
        """Nothing: nobody here takes tasks."""

    def confirmed(self) -> bool:
        """Whether the server is the one of all these, as of now."""
        return self.steady_s >= conf.JUDGE_AFTER_S

    def run(self) -> None:
        client: Any = None
        while not self._closed.is_set():
            try:
                if client is None:
                    client = connection.dedicated()
                client.ping()
                if self._since is None:
                    self._since = time.monotonic()
            except (errors.BusError, redis.RedisError, OSError) as exc:
                log.debug("no sign of life: %s", exc)
                self._since = None
                if client is not None:
                    client.close()
                client = None
            self._closed.wait(conf.BEAT_S)
        if client is not None:
            client.close()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
