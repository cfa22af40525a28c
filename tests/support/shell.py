"""Variables of whoever runs the tests that would reach the site under test."""

from __future__ import annotations

import os

# All that settings.py reads, but for two: on which server the tests run may be said
# (MESH_REDIS_BIN, docs/running.md), and where files go that nobody keeps (TMPDIR).
OF_SETTINGS = (
    *("MESH_VAR_DIR", "REDIS_URL", "DATABASE_URL", "SECRET_KEY", "DEBUG"),
    *("HOST", "PORT", "ALLOWED_HOSTS", "HTTPS", "HSTS_SECONDS", "TRUSTED_PROXIES"),
    *("CSRF_TRUSTED_ORIGINS", "MESH_REDIS_PORT", "MESH_REDIS_MAXMEMORY"),
    *("MESH_DURABILITY", "MESH_EXPRESS_LANE", "MESH_ENVIRONMENT"),
    *("OLLAMA_BASE_URL", "OLLAMA_MODEL", "OLLAMA_MODELS", "OLLAMA_CACHE"),
    *("OLLAMA_CACHE_SHARED", "OLLAMA_RATE_CAPACITY", "OLLAMA_RATE_REFILL_PER_S"),
    *("OLLAMA_CONCURRENCY", "OLLAMA_QUEUE"),
)


def forget() -> None:
    """Have none of them set, for the tests and all that they start."""
    for name in OF_SETTINGS:
        os.environ.pop(name, None)
