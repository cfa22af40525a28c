"""Django settings: everything that differs per machine comes from the environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import tempfile
from pathlib import Path

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
# Empty counts as not set: that is how files of compose and systemd unset a variable.
env.ENVIRON = {name: told for name, told in os.environ.items() if told.strip()}


def _whole(name: str, default: int) -> int:
    try:
        return int(env.int(name, default=default))
    except ValueError as exc:
        raise ImproperlyConfigured(f"{name} is not a whole number") from exc


def _flag(name: str, default: bool) -> bool:
    """On or off; `HTTPS=enabled`, taken for off, would leave cookies unprotected."""
    told = env.str(name, default=str(default)).strip().lower()
    if told in {"1", "true", "yes", "y", "on", "ok"}:
        return True
    if told in {"0", "false", "no", "n", "off"}:
        return False
    raise ImproperlyConfigured(
        f"{name} is neither on nor off; it takes 1, true, yes, on or 0, false, no, off"
    )


def _names(name: str) -> list[str]:
    """What stands between commas, without spaces around it."""
    told = env.list(name, cast=str.strip, default=[])
    return [each for each in told if each]


# The one place that holds state: server data, SQLite, secret, credentials, logs.
MESH_VAR_DIR = env.str("MESH_VAR_DIR", default=str(BASE_DIR / "var"))
REDIS_URL = env.str("REDIS_URL", default="")
# The embedded server, which runs where REDIS_URL is empty.
MESH_REDIS_BIN = env.str("MESH_REDIS_BIN", default="")
MESH_REDIS_PORT = _whole("MESH_REDIS_PORT", 6390)
MESH_REDIS_MAXMEMORY = env.str("MESH_REDIS_MAXMEMORY", default="0")
MESH_DURABILITY = env.str("MESH_DURABILITY", default="")
MESH_EXPRESS_LANE = _flag("MESH_EXPRESS_LANE", True)
# The web server: an empty PORT is 8000 or the next free one.
MESH_HOST = env.str("HOST", default="127.0.0.1")
MESH_PORT = env.str("PORT", default="")
MESH_TRUSTED_PROXIES = _names("TRUSTED_PROXIES")
MESH_ENVIRONMENT = env.str("MESH_ENVIRONMENT", default="").strip()
# What somebody chose, where `up --prod` takes no default for an answer.
MESH_GIVEN = [name for name in ("SECRET_KEY", "ALLOWED_HOSTS", "HTTPS") if name in env]


def _local_secret() -> str:
    """A secret kept in var/, so that sessions outlive a restart of a local mesh."""
    path = Path(MESH_VAR_DIR) / "secret"
    try:
        if path.exists():
            return path.read_text().strip()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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


SECRET_KEY = env.str("SECRET_KEY") if "SECRET_KEY" in env else _local_secret()
DEBUG = env.bool("DEBUG", default=False)  # off for the words of other tools
# Local by default. Where the server listens on all addresses, its own name is added:
# no wildcard, which would let any page on the web reach it through a name of its own.
_own = socket.gethostname() if MESH_HOST in {"0.0.0.0", "::"} else MESH_HOST
_own = f"[{_own}]" if ":" in _own else _own
ALLOWED_HOSTS = _names("ALLOWED_HOSTS") or list(
    dict.fromkeys(["localhost", "127.0.0.1", "[::1]", _own])
)

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
    # Their agents.py are autodiscovered like that of any other app: the topic of the
    # first curl, and the demo.
    "examples.hello",
    "examples.stdlib_metrics",
]
MIDDLEWARE = [
    # Outermost: its id of the request is on every answer, and on the audit trail.
    "bus.whence.noted",
    # Next: it sees what all others answer below /api/.
    "bus.api.middleware.problem_documents",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
# Not as a URL: a folder's name may hold what means something in one.
_sqlite = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": str(Path(MESH_VAR_DIR) / "db.sqlite3"),
}
DATABASES = {"default": env.db("DATABASE_URL") if "DATABASE_URL" in env else _sqlite}
if not DATABASES["default"].get("ENGINE"):
    # Not repeated here: it may hold a password.
    raise ImproperlyConfigured(
        "DATABASE_URL is none that Django knows; it looks like "
        "postgres://user:password@host:5432/name or sqlite:////path/of/file"
    )
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Readers do not wait for a writer, and a writer says so when it begins: two
    # processes then wait for each other instead of failing half-way.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A file as well: the threads of a test's web server lock each other out of a
    # database in memory. One per process: two runs of the suite are no neighbours. It
    # is only named: `tempfile` raises where no folder takes files, and on a full disk
    # not even `doctor` would start.
    _test_file = Path(env.str("TMPDIR", default="/tmp"), f"mesh-test-{os.getpid()}")
    DATABASES["default"]["TEST"] = {"NAME": f"{_test_file}.sqlite3"}
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"

# Sign-in. Two meshes on one host share the cookies of its name, hence a suffix per
# folder; `Secure` and `__Host-` only where the browser comes over https.
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
HTTPS = _flag("HTTPS", False)
_suffix = hashlib.sha256(str(Path(MESH_VAR_DIR).resolve()).encode()).hexdigest()[:8]
_cookie = "__Host-mesh" if HTTPS else "mesh"
SESSION_COOKIE_NAME = f"{_cookie}-session-{_suffix}"
CSRF_COOKIE_NAME = f"{_cookie}-csrf-{_suffix}"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = _names("CSRF_TRUSTED_ORIGINS")
KNOX_TOKEN_MODEL = "bus.Token"
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": None}
# Its own model is swapped out; without migrations no empty table is made for it.
MIGRATION_MODULES = {"knox": None}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator")
]

# The REST API: denied unless a view says who may, JSON only, no form, no HTML.
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "bus.api.auth.BearerAuthentication",
        "bus.api.auth.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["bus.api.permissions.MayVerb"],
    "DEFAULT_THROTTLE_CLASSES": ["bus.api.throttles.CallThrottle"],
    "DEFAULT_PARSER_CLASSES": ["bus.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["bus.api.renderers.FastJSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "bus.api.parsers.OnlyJSON",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "bus.api.exceptions.handle",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Task mesh",
    "DESCRIPTION": "Send tasks, read results, run agents. Guide: docs/api.md.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1/mesh",
    "ENUM_NAME_OVERRIDES": {
        "TaskState": "bus.messages.STATES",
        "AgentState": "bus.api.serializers.AGENT_STATES",
        "ReplayState": "bus.bulk.record.STATES",
        "AnyState": "bus.api.serializers.basics.ANY_STATES",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "bus.api.schema.as_it_is",
        "bus.api.schema.closed",
        "bus.api.schema.with_problems",
        "bus.api.schema.with_gateway",
    ],
}

# The cache lives on the mesh's server, wherever that is announced (bus/cache.py): its
# location is a name. JSON, because whoever can write to it must not run code here.
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "mesh",
        "KEY_PREFIX": "mesh-cache",
        "TIMEOUT": 30 * 60,
        "OPTIONS": {
            "CLIENT_CLASS": "bus.cache.Client",
            "CONNECTION_FACTORY": "bus.cache.Connections",
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
            "COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor",
        },
    }
}

# The Ollama gateway; nothing a request says ever changes where it goes.
MESH_OLLAMA_BASE_URL = env.str("OLLAMA_BASE_URL", default="http://127.0.0.1:11434")
MESH_OLLAMA_MODEL = env.str("OLLAMA_MODEL", default="llama3.2")
MESH_OLLAMA_MODELS = _names("OLLAMA_MODELS")
MESH_OLLAMA_CACHE = env.str("OLLAMA_CACHE", default="plain")
MESH_OLLAMA_CACHE_SHARED = _flag("OLLAMA_CACHE_SHARED", False)
try:
    MESH_OLLAMA_RATE_CAPACITY = env.float("OLLAMA_RATE_CAPACITY", default=10.0)
    MESH_OLLAMA_RATE_REFILL_PER_S = env.float("OLLAMA_RATE_REFILL_PER_S", default=2.0)
    MESH_OLLAMA_CONCURRENCY = env.int("OLLAMA_CONCURRENCY", default=4)
    MESH_OLLAMA_QUEUE = env.int("OLLAMA_QUEUE", default=32)
except ValueError as exc:
    raise ImproperlyConfigured(f"a limit of OLLAMA_… is no number: {exc}") from exc

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
CSRF_FAILURE_VIEW = "dashboard.failures.csrf_failure"
SECURE_REFERRER_POLICY = "same-origin"
# How long a browser that came over https comes back over nothing else. Short enough to
# be taken back; whole domains, and lists in browsers, are not ours to decide on.
SECURE_HSTS_SECONDS = _whole("HSTS_SECONDS", 3600 if HTTPS else 0)
# W005, W021: those. W008: who ends https redirects; a probe beside us asks plainly.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
