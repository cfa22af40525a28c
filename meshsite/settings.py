"""Django settings: everything that differs per machine comes from the environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from pathlib import Path

import environ
from csp.constants import NONE, SELF
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
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "csp",
    "bus",
    "dashboard",
    # The demo: its agents.py is autodiscovered like that of any other app.
    "examples.stdlib_metrics",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "meshsite.urls"
ASGI_APPLICATION = "meshsite.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": env.db("DATABASE_URL", default=f"sqlite:///{MESH_VAR_DIR}/db.sqlite3")
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Readers do not wait for a writer, and a writer says so when it begins: two
    # processes then wait for each other instead of failing half-way.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"

# Sign-in. Two meshes on one host share the cookies of its name, hence a suffix per
# folder; `Secure` and `__Host-` only where the browser comes over https.
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
HTTPS = env.bool("HTTPS", default=False)
_suffix = hashlib.sha256(str(Path(MESH_VAR_DIR).resolve()).encode()).hexdigest()[:8]
_cookie = "__Host-mesh" if HTTPS else "mesh"
SESSION_COOKIE_NAME = f"{_cookie}-session-{_suffix}"
CSRF_COOKIE_NAME = f"{_cookie}-csrf-{_suffix}"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
KNOX_TOKEN_MODEL = "bus.Token"
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": None}
# Its own model is swapped out; without migrations no empty table is made for it.
MIGRATION_MODULES = {"knox": None}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator")
]

# Nothing but our own origin; no inline script or style anywhere.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
