"""Django settings: everything that differs per machine comes from the environment."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# The one place that holds state: server data, SQLite, secret, credentials, logs.
MESH_VAR_DIR = env.str("MESH_VAR_DIR", default=str(BASE_DIR / "var"))
REDIS_URL = env.str("REDIS_URL", default="")
# The embedded server, which runs where REDIS_URL is empty.
MESH_REDIS_BIN = env.str("MESH_REDIS_BIN", default="")
MESH_REDIS_PORT = env.int("MESH_REDIS_PORT", default=6390)
MESH_REDIS_MAXMEMORY = env.str("MESH_REDIS_MAXMEMORY", default="0")


def _local_secret() -> str:
    """A secret kept in var/, so that sessions outlive a restart of a local mesh."""
    path = Path(MESH_VAR_DIR) / "secret"
    try:
        if path.exists():
            return path.read_text().strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and linked: of two processes that start at once one wins, and
        # nobody reads half a secret.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secret") as own:
            own.write(secrets.token_urlsafe(48))
            own.flush()
            with contextlib.suppress(FileExistsError):
                os.link(own.name, path)
        return path.read_text().strip()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"MESH_VAR_DIR {MESH_VAR_DIR} cannot hold this folder's state: "
            f"{exc.strerror}; name a folder of yours, or set SECRET_KEY"
        ) from exc


SECRET_KEY = env.str("SECRET_KEY", default="") or _local_secret()
DEBUG = env.bool("DEBUG", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "bus",
    "dashboard",
    # The demo: its agents.py is autodiscovered like that of any other app.
    "examples.stdlib_metrics",
]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "meshsite.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": env.db("DATABASE_URL", default=f"sqlite:///{MESH_VAR_DIR}/db.sqlite3")
}
USE_TZ = True
TIME_ZONE = "UTC"
