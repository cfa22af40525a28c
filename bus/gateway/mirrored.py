"""What Ollama's own clients ask and are shown: its API, less what is not for callers.

A request may load a model and use it, not say for how long it stays (`keep_alive`), how
it is driven (`raw`, `template`, `context`), nor send images. Of models it is told what
describes them, not where the server keeps its files.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from .. import errors
from . import prompts
from .prompts import Prompt

_SHARED: Final = ("model", "format", "options", "stream", "think")
_GENERATE: Final = (*_SHARED, "prompt", "suffix", "system")
_CHAT: Final = (*_SHARED, "messages", "tools")
_EMBED: Final = ("model", "input", "truncate", "dimensions", "options")
_SHOW: Final = ("model", "name", "verbose")
_LEVELS: Final = ("low", "medium", "high", "max")
_ROLES: Final = ("system", "user", "assistant", "tool")
_TEXTS: Final = ("content", "thinking", "tool_name", "tool_call_id")
_MESSAGES_MOST: Final = 1_000
_INPUTS_MOST: Final = 1_000
_DIMENSIONS_MOST: Final = 65_536
_LIST_MOST: Final = 100
_LEVELS_MOST: Final = 8
# No name of a model looks so, and no template, which has braces and may have escapes.
_PATH: Final = re.compile(r"[/~]|\.\.?/|file:|[A-Za-z]:[/\\]|[^{}\n]*\\[^{}\n]*$")

_OF_MODEL: Final = (
    *("name", "model", "modified_at", "size", "digest", "details", "capabilities"),
    *("expires_at", "size_vram", "context_length"),
)
_OF_SHOW: Final = (
    *("details", "model_info", "capabilities", "parameters", "template"),
    *("license", "modified_at"),
)


def generate(body: Any) -> Prompt:
    """The request in a decoded body of `POST api/generate`.

    Raises InvalidPayload, PayloadTooLarge. Without a prompt it loads the model.
    """
    given = _given(body, _GENERATE)
    asked = {"prompt": ""}
    for name in ("prompt", "suffix", "system"):
        if given.get(name, "") != "":
            asked[name] = prompts.text(name, given[name])
    size = sum(len(each.encode()) for each in asked.values())
    prompts.check_size("prompt", size)
    return _prompt(given, asked, prompts.GENERATE)


def chat(body: Any) -> Prompt:
    """The request in a decoded body of `POST api/chat`; likewise."""
    given = _given(body, _CHAT)
    asked = {"messages": _messages(given.get("messages", []))}
    if "tools" in given:
        asked["tools"] = _objects("tools", given["tools"])
    for name, value in asked.items():
        prompts.check_size(name, len(orjson.dumps(value)))
    return _prompt(given, asked, prompts.CHAT)


def embed(body: Any) -> Prompt:
    """The request in a decoded body of `POST api/embed`; likewise."""
    given = _given(body, _EMBED)
    asked: dict[str, Any] = {"input": _input(given.get("input", ""))}
    if not prompts.boolean("truncate", given.get("truncate"), True):
        asked["truncate"] = False
    dimensions = given.get("dimensions", 0)
    if not isinstance(dimensions, int) or isinstance(dimensions, bool):
        raise errors.InvalidPayload("dimensions must be a whole number")
    if not 0 <= dimensions <= _DIMENSIONS_MOST:
        said = f"dimensions must be from 0 to {_DIMENSIONS_MOST:,}"
        raise errors.InvalidPayload(said)
    if dimensions:  # 0: as many as the model has
        asked["dimensions"] = dimensions
    named, options = prompts.model(given.get("model")), given.get("options")
    return Prompt(named, asked, prompts.options(options), False, prompts.EMBED)


def show(body: Any) -> dict[str, Any]:
    """What is sent upstream for a decoded body of `POST api/show`."""
    given = _given(body, _SHOW)
    named = given.get("model")
    if named in (None, ""):
        named = given.get("name", named)  # as older clients say it
    asked: dict[str, Any] = {"model": prompts.model(named)}
    if prompts.boolean("verbose", given.get("verbose"), False):
        asked["verbose"] = True
    return asked


def models(answer: dict[str, Any]) -> dict[str, Any]:
    """Of `GET api/tags` and `api/ps`: the models that may be asked here."""
    rows = [
        row for row in _rows(answer.get("models")) if prompts.is_allowed(_name(row))
    ]
    return {"models": [_nowhere(_only(row, _OF_MODEL)) for row in rows]}


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    """Of `POST api/show`: what describes the model."""
    told = _only(answer, _OF_SHOW)
    return {**told, **_nowhere(_only(told, ("details", "model_info")))}


def version(answer: dict[str, Any]) -> dict[str, Any]:
    """Of `GET api/version`."""
    return {"version": str(answer.get("version", ""))[:100]}


def _given(body: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields that say something, in the order of `names`; InvalidPayload for
    others. Ollama's client for Go sends many of its fields in any case, empty."""
    if not isinstance(body, dict):
        raise errors.InvalidPayload("the body must be a JSON object")
    said = {
        name: value
        for name, value in body.items()
        if value is not None and (name in names or not _is_empty(value))
    }
    prompts.check_fields(said, names)
    return {name: said[name] for name in names if name in said}


def _is_empty(value: Any) -> bool:
    return value is False or value in ("", [], {})  # 0 is something: a time, say


def _prompt(given: dict[str, Any], asked: dict[str, Any], path: str) -> Prompt:
    more: dict[str, Any] = {}
    if "format" in given and given["format"] != "":
        more["format"] = _format(given["format"])
    if "think" in given:
        more["think"] = _think(given["think"])
    return Prompt(
        prompts.model(given.get("model")),
        asked | more,
        prompts.options(given.get("options")),
        prompts.boolean("stream", given.get("stream"), True),
        path,
    )


def _format(value: Any) -> Any:
    if value != "json" and not isinstance(value, dict):
        raise errors.InvalidPayload('format must be "json" or a JSON schema')
    prompts.check_size("format", len(orjson.dumps(value)))
    return value


def _think(value: Any) -> Any:
    if not isinstance(value, bool) and value not in _LEVELS:
        said = f"think must be true, false or one of {', '.join(_LEVELS)}"
        raise errors.InvalidPayload(said)
    return value


def _input(value: Any) -> Any:
    """A text or a list of them."""
    texts = value if isinstance(value, list) else [value]
    if len(texts) > _INPUTS_MOST:
        raise errors.InvalidPayload(f"more than {_INPUTS_MOST:,} texts in input")
    size = sum(len(prompts.text("input", each).encode()) for each in texts)
    prompts.check_size("input", size)
    return value


def _messages(value: Any) -> list[dict[str, Any]]:
    messages = _objects("messages", value)
    if len(messages) > _MESSAGES_MOST:
        raise errors.InvalidPayload(f"more than {_MESSAGES_MOST:,} messages")
    return [_message(each) for each in messages]


def _message(value: dict[str, Any]) -> dict[str, Any]:
    given = _given(value, ("role", *_TEXTS, "tool_calls"))
    if given.get("role") not in _ROLES:
        said = f"role of a message must be one of {', '.join(_ROLES)}"
        raise errors.InvalidPayload(said)
    for name in _TEXTS:
        if name in given:
            prompts.text(name, given[name])
    if "tool_calls" in given:
        _objects("tool_calls", given["tool_calls"])
    return given


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise errors.InvalidPayload(f"{name} must be a list of objects")
    return value


def _rows(value: Any) -> list[dict[str, Any]]:
    rows = value if isinstance(value, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _name(row: dict[str, Any]) -> str:
    return str(row.get("name", ""))


def _nowhere(value: Any, levels: int = _LEVELS_MOST) -> Any:
    """The value with an empty text for every path, as `details.parent_model` may be
    one; null below what no model has. Long lists are its vocabulary, not places."""
    if isinstance(value, dict | list) and not levels:
        return None
    if isinstance(value, dict):
        return {name: _nowhere(each, levels - 1) for name, each in value.items()}
    if isinstance(value, list) and len(value) <= _LIST_MOST:
        return [_nowhere(each, levels - 1) for each in value]
    return "" if isinstance(value, str) and _PATH.match(value) else value


def _only(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}
