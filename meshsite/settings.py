"""Django settings: everything that differs per machine comes from the environment."""

from __future__ import annotations

from pathlib import Path

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# The one place that holds state: server data, SQLite, secret, credentials, logs.
MESH_VAR_DIR = env.str("MESH_VAR_DIR", default=str(BASE_DIR / "var"))
REDIS_URL = env.str("REDIS_URL", default="")


def _local_secret() -> str:
    """A secret kept in var/, so that sessions outlive a restart of a local mesh."""
    import os
    import secrets

    path = Path(MESH_VAR_DIR) / "secret"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL: of two processes that start at once one writes, the other reads.
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(48))
        return path.read_text().strip()


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
