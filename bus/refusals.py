"""Redis errors, mapped to ours at one boundary."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from . import address, errors, lines
from . import conf as settings

# Reply words after which nothing was written and the same send may be repeated; for
# several of them redis-py has no class, hence words.
_ELSEWHERE: Final = frozenset(lines.ELSEWHERE)
_PASSING: Final = _ELSEWHERE | {"BUSY", "TRYAGAIN", "ASK"}
_REFUSED: Final = _PASSING | {"OOM", "MISCONF", "NOREPLICAS", "MOVED"}


_NO_KIND: Final = "holds another kind of value than the mesh keeps there"
_KINDS: Final = {
    **dict.fromkeys(("tasks_stream", "results", "dead", "bin", "events"), "stream"),
    **dict.fromkeys(("delayed", "done", "<group>"), "zset"),
    **dict.fromkeys(("tasks", "parked", "attempts", "dead_index", "errors"), "hash"),
    **dict.fromkeys(("counters", "settings", "minutes", "hours", "audit"), "hash"),
    **dict.fromkeys(("seen0", "seen1"), "hash"),
}
_NO_IDS: Final = "has an entry under the last possible id, so it takes no further one"
_ADVICE: Final = {
    "OOM": ". Its memory is full: raise maxmemory, or let agents work the backlog down",
    "MISCONF": ". Look at the server's disk",
    "NOREPLICAS": ". Look at its replicas",
    "MOVED": ". REDIS_URL names one node of a cluster, and others hold this topic",
}
# Refusals that callers can tell apart; the others are a BusUnavailable without more.
_CODES: Final = {
    "OOM": "memory_full",
    "MISCONF": "disk_failing",
    "NOREPLICAS": "replicas_missing",
    "READONLY": "read_only",
}


class DamagedKey(errors.BusError):
    """A key was changed by hand so that the mesh cannot use it; nothing was written.

    The audit mends it within seconds; `key` is its name, or '' where that is not known.
    """

    code = "damaged_key"
    retry_after_s = 1.0

    def __init__(self, key: str, how: str) -> None:
        said = f"the key {key}" if key else "one of the mesh's keys"
        super().__init__(
            f"{said} {how}: somebody wrote it by hand; the audit mends it within "
            "seconds"
        )
        self.key, self.how = key, how

    @property
    def topic(self) -> str:
        """Whose key it is; empty where it is no topic's, or not known."""
        return self.key.partition("{")[2].partition("}")[0]


def code_word(exc: BaseException) -> str:
    """The error code a server reply begins with, such as NOGROUP; else empty."""
    if not isinstance(exc, redis.RedisError):
        return ""
    for cls, word in _WORDS_OF_CLASS.items():
        if isinstance(exc, cls):
            return word
    head = str(exc).partition(" ")[0].lstrip("-")
    return head if head.isupper() else ""


# redis-py strips the code word from the errors it has a class for.
_WORDS_OF_CLASS: Final[dict[type[redis.RedisError], str]] = {
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.AskError: "ASK",
}


def is_unknown(exc: BaseException) -> bool:
    """Whether the request may have been executed although no reply came."""
    lost = isinstance(exc, (redis.ConnectionError, redis.TimeoutError, OSError))
    return lost and not isinstance(exc, redis.exceptions.BusyLoadingError)


def is_passing(exc: BaseException) -> bool:
    """Whether repeating the same send soon can succeed."""
    return is_unknown(exc) or code_word(exc) in _PASSING


def is_elsewhere(exc: BaseException) -> bool:
    """Whether another server may be the one to ask: connect anew, then repeat."""
    return code_word(exc) in _ELSEWHERE


def mapped(exc: BaseException, *, wrote: bool = False) -> errors.BusError:
    """Our error for a Redis error; `wrote` if the request could have changed state."""
    if isinstance(exc, redis.exceptions.AuthenticationError):
        return errors.BusUnavailable(f"Redis refuses our credentials: {exc}")
    if _no_connection_left(exc):
        return errors.BusUnavailable("all connections of this process are in use")
    if is_unknown(exc):
        where, why = map(address.shown_url, (address.redis_url(), str(exc)))
        text = f"Redis does not answer at {where}: {why}"
        if wrote and not _never_sent(exc):
            return errors.OutcomeUnknown(text)
        if settings.redis_url_given():
            hint = "Is it running, and is REDIS_URL right?"
        elif address.redis_url() == address.DEFAULT_URL:
            folder = settings.var_dir().absolute()
            return errors.BusUnavailable(
                f"no mesh runs in {folder}: start one with `make run`, or set "
                "MESH_VAR_DIR to the folder of one that runs, or REDIS_URL (the "
                f"default, {where}, does not answer)"
            )
        else:
            hint = "Start the mesh of this folder with `make run`, or set REDIS_URL."
        return errors.BusUnavailable(f"{text.rstrip('.')}. {hint}")
    if isinstance(exc, redis.exceptions.InvalidResponse) or "Protocol error" in str(
        exc
    ):
        where = address.shown_url(address.redis_url())
        return errors.BusUnavailable(f"what answers at {where} is no Redis: {exc}")
    if code_word(exc) == "NOAUTH" or "already authenticated" in str(exc):
        return errors.BusUnavailable(
            "Redis wants a password; put it into REDIS_URL: redis://:PASSWORD@host:port"
        )
    if code_word(exc) in _REFUSED:
        # What follows a script's name is of no use to whoever reads this.
        said = str(exc).partition(" script: ")[0].rstrip(" ,.")
        advice = _ADVICE.get(code_word(exc), "")
        refusal = errors.BusUnavailable(f"Redis refuses this for now: {said}{advice}")
        refusal.code = _CODES.get(code_word(exc), refusal.code)
        return refusal
    if code_word(exc) == "WRONGTYPE":
        return DamagedKey("", _NO_KIND)
    if code_word(exc) == "EXHAUSTED":
        return DamagedKey(str(exc).split()[1], _NO_IDS)
    if "exhausted the last possible ID" in str(exc):
        return DamagedKey("", _NO_IDS)
    return errors.BusError(f"Redis refused a command of ours: {exc}")


def misfit(
    names: Sequence[str], places: Sequence[str], kinds: Sequence[str | bytes]
) -> DamagedKey:
    """The error for the first of these keys that is of another type than its name in
    `keys.py` says."""
    for name, place, kind in zip(names, places, kinds, strict=False):
        is_ = kind.decode() if isinstance(kind, bytes) else kind
        if is_ not in ("none", _KINDS.get(name, is_)):
            return DamagedKey(place, _NO_KIND)
    return DamagedKey("", _NO_KIND)


def is_misfit(exc: BaseException) -> bool:
    """Whether a key is of another type than the command is for."""
    return code_word(exc) == "WRONGTYPE"


def _no_connection_left(exc: BaseException) -> bool:
    """Whether the pool, not the server, refused."""
    full = isinstance(exc, redis.exceptions.MaxConnectionsError)
    return full or "No connection available" in str(exc)


def _never_sent(exc: BaseException) -> bool:
    """Whether there was no connection at all over which something could be sent."""
    cause = exc.__cause__ or exc.__context__
    return isinstance(
        cause,
        (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror),
    )


@contextlib.contextmanager
def written(**done: Any) -> Iterator[None]:
    """Around what follows a write: where it fails, OutcomeUnknown leaves.

    That nothing was written, as such an error says, is true of its own step alone.
    `done` goes with it, for who writes down what was done (`audit.of_steps`).
    """
    try:
        yield
    except (errors.BusUnavailable, DamagedKey) as exc:
        done |= exc.facts.get("done", {})
        if not isinstance(exc, errors.OutcomeUnknown):
            raise errors.OutcomeUnknown(str(exc), done=done) from exc
        exc.facts["done"] = done
        raise


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """The boundary for single reading commands: Redis errors leave as ours."""
    try:
        yield
    except (redis.RedisError, OSError) as exc:
        raise mapped(exc) from exc
