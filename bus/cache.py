"""Django's cache on the mesh's own server: django-redis, told where the server is.

Two things differ from django-redis as it comes. The URL is looked up at each call, as
for every other client of the mesh, because the embedded server announces it only when
it runs. And `clear()` deletes what is below the cache's own prefix: the original
flushes the database, which here holds everybody's tasks.
"""

from __future__ import annotations

from typing import Any, Final

from django_redis.client import DefaultClient
from django_redis.pool import ConnectionFactory
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import address

# A cache that answers later than this is worth less than none.
_TIMEOUT_S: Final = 1.0
_CONNECTIONS_MOST: Final = 50


class Connections(ConnectionFactory):
    """One pool per URL and process; short timeouts, one retry on a stale connection."""

    def connect(self, url: str) -> Any:
        """A client of the server as it is announced now; `url` is only a name."""
        return super().connect(address.checked_url())

    def make_connection_params(self, url: str) -> dict[str, Any]:
        """What each connection is made with."""
        return {
            **super().make_connection_params(url),
            "socket_timeout": _TIMEOUT_S,
            "socket_connect_timeout": _TIMEOUT_S,
            "max_connections": _CONNECTIONS_MOST,
            "retry": Retry(NoBackoff(), 1),
        }


class Client(DefaultClient):
    """django-redis's client, which asks for the server each time and never flushes."""

    def get_client(self, write: bool = True, tried: list[int] | None = None) -> Redis:
        """A client of the server as it is announced now; pools outlive it."""
        client: Redis = self.connect(0)
        return client

    def get_client_with_index(
        self, write: bool = True, tried: list[int] | None = None
    ) -> tuple[Redis, int]:
        """The same, with the only index there is."""
        return self.get_client(write), 0

    def clear(self, client: Redis | None = None) -> None:
        """Delete the keys below the cache's prefix, of every version, and no others."""
        client = client or self.get_client()
        prefix = self._backend.key_prefix
        for key in client.scan_iter(f"{prefix}:*", count=1000):
            client.unlink(key)
