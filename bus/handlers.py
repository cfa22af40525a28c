"""Handlers: which function runs the tasks of which topic."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import errors, keys, records
from .conf import conf

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered handler; None leaves an option to the topic or the default."""

    topic: str
    function: Callable[..., Any]
    max_attempts: int | None = None
    timeout_s: float | None = None
    backoff_s: float | None = None
    concurrency: int | None = None
    cpu: bool = False

    @property
    def is_async(self) -> bool:
        """Whether it runs on the loop rather than in a thread or process."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def kind(self) -> str:
        """`async`, `process` or `thread`."""
        if self.is_async:
            return "async"
        return "process" if self.cpu else "thread"

    @property
    def path(self) -> str:
        """`package.module:function`."""
        function: Any = self.function
        module = getattr(function, "__module__", "") or "?"
        return f"{module}:{getattr(function, '__qualname__', repr(function))}"


registry: dict[str, Handler] = {}


def handler(
    topic: str,
    *,
    max_attempts: int | None = None,
    timeout_s: float | None = None,
    backoff_s: float | None = None,
    concurrency: int | None = None,
    cpu: bool = False,
) -> Callable[[F], F]:
    """Register `(payload, task) -> JSON value` for a topic; it stays as it is.

    An async function runs on the agent's loop, a sync one in a thread, with `cpu=True`
    in a process. `max_attempts` counts executions (default 5), `timeout_s` bounds each
    (60; 1 ms to 7 days), `backoff_s` is the first retry's upper bound (1), doubling
    per retry.
    """
    # Here, not once a function comes: without parentheses none would ever come.
    if callable(topic):
        name = getattr(topic, "__qualname__", repr(topic))
        raise errors.InvalidName(
            f'@handler over {name} names no topic; write @handler("topic")'
        )
    keys.check_topic(topic)
    options = (
        _positive("max_attempts", max_attempts, whole=True),
        _timeout(timeout_s),
        _positive("backoff_s", backoff_s),
        _positive("concurrency", concurrency, whole=True),
        cpu,
    )

    def register(function: F) -> F:
        _add(Handler(topic, function, *options))
        return function

    return register


def _positive(name: str, value: Any, *, whole: bool = False) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None:
        return None
    if not number or not 0 < value < float("inf"):
        raise errors.InvalidOption(f"{name}={value!r} is not a positive number")
    if whole and int(value) != value:
        raise errors.InvalidOption(f"{name}={value!r} is not a whole number")
    return int(value) if whole else value


def _timeout(value: Any) -> Any:
    seconds = _positive("timeout_s", value)
    if seconds is not None and not records.may_take(seconds):
        raise errors.InvalidOption(f"timeout_s={value!r} is not 0.001 s to 7 days")
    return seconds


def _add(new: Handler) -> None:
    _check_callable(new)
    old = registry.get(new.topic)
    # The same function twice is a module that was imported again.
    if old is not None and old.path != new.path:
        raise errors.HandlerError(
            f"topic {new.topic!r} has two handlers, {old.path} and {new.path}; "
            "give each topic one"
        )
    registry[new.topic] = new


def _check_callable(new: Handler) -> None:
    if not callable(new.function):
        raise errors.HandlerError(
            f"the handler of topic {new.topic!r} is {_a(new.function)}, not a function"
        )
    if new.cpu and new.is_async:
        raise errors.HandlerError(f"{new.path}: cpu=True is for sync functions")
    try:
        inspect.signature(new.function).bind({}, None)
    except TypeError:
        raise errors.HandlerError(
            f"{new.path} cannot be called as (payload, task)"
        ) from None
    except ValueError:
        return  # a builtin without a signature: the call will tell


_discovered = False  # whether this process has looked for all handlers there are


def autodiscover() -> None:
    """Import `agents.py` of every installed app, as Django does with `admin.py`."""
    global _discovered
    from django.utils.module_loading import autodiscover_modules

    try:
        autodiscover_modules("agents")
    except errors.BusError:
        raise
    except (Exception, SystemExit) as exc:
        raise errors.HandlerError(f"an agents.py does not import: {exc!r}") from exc
    _discovered = True


def way_to_serve(topic: str) -> str:
    """What to type for an agent of a topic: the plain command where it works.

    Whether it does is known to who has looked for handlers. A web server has not, and
    does not for this: importing them all may take long, and end the process even.
    """
    command = f"`manage.py agent --topic {topic}"
    if topic in registry:
        return f"{command}`"
    if not _discovered:
        return (
            f"{command}` (with --handler package.module:function where no installed "
            "app has a handler for it)"
        )
    return (
        f"{command} --handler package.module:function` (no installed app has a "
        "handler for it)"
    )


def load(path: str, topic: str | None) -> Handler:
    """The handler at `package.module:function`, decorated or plain.

    A plain function needs `topic`; a decorated one brings its own unless overridden.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise errors.HandlerError(
            f"handler {path!r} does not look like package.module:function"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        function: Any = module
        for part in name.split("."):
            function = getattr(function, part)
    except AttributeError as exc:
        raise errors.HandlerError(f"handler {path!r}: {exc}") from exc
    except errors.BusError:
        raise
    except (Exception, SystemExit) as exc:
        raise errors.HandlerError(
            f"handler {path!r} cannot be imported: {exc!r}; the path is "
            "package.module:function, looked up from this folder"
        ) from exc
    if not callable(function):
        raise errors.HandlerError(
            f"handler {path!r} is {_a(function)}, not a function; name one that takes "
            "(payload, task)"
        )
    found = [item for item in registry.values() if item.function is function]
    found.sort(key=lambda item: item.topic != topic)
    if found:
        # Another topic on the command line keeps what the decorator said.
        own = found[0].topic if topic is None else keys.check_topic(topic)
        return dataclasses.replace(found[0], topic=own)
    if topic is None:
        raise errors.HandlerError(
            f"{path!r} is not decorated with @handler; say which topic with --topic"
        )
    plain = Handler(keys.check_topic(topic), function)
    _check_callable(plain)
    registry[topic] = plain
    return plain


def _a(value: object) -> str:
    """What a value is, for a sentence: `a module`, `an int`."""
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def timeout_of(found: Handler, task_s: float | None, topic_s: float | None) -> float:
    """Seconds one attempt may take: task > topic > handler > default."""
    for value in (task_s, topic_s, found.timeout_s):
        if value is not None:
            return value
    return conf.TIMEOUT_S
