"""Typed defaults, each overridden by the Django setting `MESH_<NAME>` at call time.

Reading at call time makes `override_settings` work; without configured settings (a
plain script that imports `bus`) the defaults hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed


class _Defaults:
    """Units are in the names; the reason for a value stands beside it."""

    # Bounds of a topic; each can be set per topic as well.
    BACKLOG_MAX: int = 100_000
    RESULTS_KEEP: int = 10_000
    DEAD_MAX: int = 100_000
    TOPICS_MAX: int = 1_000

    # Attempts.
    MAX_ATTEMPTS: int = 5
    MAX_DELIVERIES: int = 5  # lost leases after which a task counts as poison
    SUSPECT_AFTER: int = 2  # lost leases after which a task is run alone
    TIMEOUT_S: float = 60.0
    BACKOFF_S: float = 1.0
    BACKOFF_MAX_S: float = 600.0

    # Liveness. An owner is dead 3 s after its last beat if its connections are gone
    # too, or when its rows were idle for one lease.
    BEAT_S: float = 0.8  # a pause reaches every agent within a second
    EXPIRY_S: float = 3.0
    LEASE_S: float = 15.0
    JUDGE_AFTER_S: float = 3.0  # unbroken connection before judging others

    # Payload limits (per task).
    PAYLOAD_MAX_BYTES: int = 256 * 1024
    RESULT_MAX_BYTES: int = 1024 * 1024
    JSON_MAX_DEPTH: int = 32
    JSON_MAX_NODES: int = 10_000

    # The REST API. A body may be written in escapes, six bytes for one of the payload.
    BODY_MAX_BYTES: int = 1024 * 1024
    BATCH_MAX_BYTES: int = 8 * 1024 * 1024
    BATCH_MAX_TASKS: int = 1_000
    BODIES_MAX_BYTES: int = 256 * 1024 * 1024  # of all requests in a process at once
    BODY_TIMEOUT_S: float = 30.0  # for a body to arrive
    EXPRESS_LANE: bool = True  # hot calls are answered in front of Django
    TOGETHER_MAX: int = 10_000  # calls of a process that wait to be sent together
    WAIT_MAX_S: float = 60.0  # of `GET tasks/{id}?wait=`
    # Calls per token or user; hot are enqueue, heartbeat, claim, deliveries/*.
    # Wrong tokens per address.
    API_HOT_CALLS_PER_MINUTE: int = 100_000
    API_CALLS_PER_MINUTE: int = 6_000
    API_WRONG_TOKENS_PER_MINUTE: int = 60

    # Connections. redis-py's own defaults are never relied on.
    POOL_SIZE: int = 50
    SOCKET_TIMEOUT_S: float = 5.0
    HEALTH_CHECK_S: int = 30
    SEND_RETRY_S: float = 10.0  # how long one call repeats an unanswered script

    # What an acknowledgement means: memory, aof, fsync or replicated:k; empty: what the
    # server does by itself. How long a caller waits for the last two.
    DURABILITY: str = ""
    DURABILITY_TIMEOUT_S: float = 3.0  # a file synced every second may take two

    # The web server. An empty port is 8000 or the next free one.
    HOST: str = "127.0.0.1"
    PORT: str = ""
    TRUSTED_PROXIES: tuple[str, ...] = ()  # whose X-Forwarded-* headers count
    ENVIRONMENT: str = ""  # a word on every page, such as production

    # What was chosen rather than left to a default; `up --prod` asks.
    GIVEN: tuple[str, ...] = ()

    # The live feed.
    FEED_FRAMES_PER_S: int = 20  # per follower
    FEED_ROWS_PER_FRAME: int = 50
    FEED_CATCH_UP_MAX: int = 5_000  # rows told after a pause; beyond that a gap
    FEED_SOCKETS_PER_USER: int = 50  # per process
    FEED_STREAMS_PER_USER: int = 50  # of `GET results/stream`, per process
    FEED_RECHECK_S: float = 2.5  # between looks whether a reader may still listen

    # The embedded server.
    VAR_DIR: str = "var"
    REDIS_PORT: int = 6390
    REDIS_BIN: str = ""
    REDIS_MAXMEMORY: str = "0"

    # Kept for pages and repeats.
    DONE_WINDOW_S: int = 30
    DONE_INDEX_MAX: int = 500_000
    SEEN_MAX: int = 1_000_000  # idempotency keys of a topic, in two generations
    BIN_KEEP_S: int = 3600
    BIN_MAX: int = 10_000
    GONE_AGENTS_KEEP: int = 1_000
    GONE_AGENTS_KEEP_S: int = 24 * 3600

    # The audit trail, in SQL. 0 keeps it forever.
    AUDIT_KEEP_DAYS: int = 365

    # The Ollama gateway (docs/ollama.md). Environment variables without MESH_.
    OLLAMA_BASE_URL: str = "http://127.0.0.1:11434"
    OLLAMA_MODEL: str = "llama3.2"  # of requests that name none
    OLLAMA_MODELS: Sequence[str] = ()  # others are refused; empty: any
    OLLAMA_PROMPT_MAX_BYTES: int = 32 * 1024
    OLLAMA_BODY_MAX_BYTES: int = 256 * 1024  # a prompt may be written in escapes
    OLLAMA_ANSWER_MAX_BYTES: int = 8 * 1024 * 1024
    OLLAMA_TOKENS_MAX: int = 131_072  # of num_predict and num_ctx
    OLLAMA_RATE_CAPACITY: float = 10.0  # requests per principal
    OLLAMA_RATE_REFILL_PER_S: float = 2.0
    OLLAMA_CONNECT_S: float = 2.0
    OLLAMA_FIRST_LINE_S: float = 120.0  # a model may have to be loaded
    OLLAMA_BETWEEN_LINES_S: float = 30.0
    OLLAMA_TOTAL_S: float = 600.0
    OLLAMA_CONCURRENCY: int = 4  # upstream calls at once, per process
    OLLAMA_QUEUE: int = 32  # requests waiting for one of those, per process
    OLLAMA_CACHE: str = "plain"  # off, repeatable, plain or all
    OLLAMA_CACHE_SHARED: bool = False  # one principal may get another's answer
    OLLAMA_CACHE_TTL_S: int = 30 * 60
    # Their product bounds what the cache can take of the server's memory; compressed,
    # answers take about a tenth of it.
    OLLAMA_CACHE_SLOTS: int = 4096
    OLLAMA_CACHE_ENTRY_MAX_BYTES: int = 128 * 1024


class _Conf:
    """Reads a setting on first use and keeps it until the setting changes.

    Looking into Django's settings costs microseconds, a task passes here ten times.
    """

    def __getattr__(self, name: str) -> Any:
        if not name.isupper():
            raise AttributeError(name)
        value = getattr(_Defaults, name)
        if settings.configured or os.environ.get("DJANGO_SETTINGS_MODULE"):
            value = getattr(settings, f"MESH_{name}", value)
            self.__dict__[name] = value
        return value


conf: _Defaults = cast(_Defaults, _Conf())


def _changed(*, setting: str, **_: Any) -> None:
    """`override_settings` takes effect at once."""
    vars(conf).pop(setting.removeprefix("MESH_"), None)


setting_changed.connect(_changed)


def names() -> list[str]:
    """Every setting, for `doctor` and the test that documents them."""
    return sorted(name for name in vars(_Defaults) if name.isupper())


def default(name: str) -> Any:
    """What a setting is where nobody says anything."""
    return getattr(_Defaults, name)


def in_environment(variable: str) -> bool:
    """Whether the environment says something under this name."""
    return bool(os.environ.get(variable, "").strip())


def var_dir() -> Path:
    """Where all state of this folder lives."""
    if _in_django():
        return Path(conf.VAR_DIR)
    return Path(os.environ.get("MESH_VAR_DIR", "").strip() or conf.VAR_DIR)


def announcement() -> Path:
    """The file in which the embedded server announces its URL."""
    return var_dir() / "redis" / "url"


def redis_url_given() -> str:
    """REDIS_URL of the environment, else of the settings, else empty."""
    from_env = os.environ.get("REDIS_URL", "").strip()
    if from_env:
        return from_env
    return str(getattr(settings, "REDIS_URL", "") or "") if _in_django() else ""


def _in_django() -> bool:
    """Whether there are settings; a plain script that imports `bus` has none."""
    return settings.configured or bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


def crash_at() -> str:
    """MESH_CRASH_AT of the environment: where a test has this process die, else empty.

    Not a setting: it is of one process, and must not live in anybody's file.
    """
    return os.environ.get("MESH_CRASH_AT", "").strip()


def transition_log() -> bool:
    """Whether tests have the scripts write down what they do (lua/log.lua)."""
    return os.environ.get("MESH_TRANSITION_LOG", "") == "1"
