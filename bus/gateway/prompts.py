"""What may be asked of a model: the fields, their types, the bounds, the cache key.

A request has `prompt` and may have `model`, `options` and `stream`; null stands for
absent. Everything else is refused rather than passed on: an unknown field might name
another host, a file, or a way to keep a model in memory forever.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .. import errors
from ..conf import conf

GENERATE: Final = "/api/generate"
CHAT: Final = "/api/chat"
EMBED: Final = "/api/embed"
FIELDS: Final = ("model", "prompt", "options", "stream")
# `name`, `space/name` or `host/space/name`, then maybe `:tag`; no port, no `..`, no
# scheme, nothing that means something in a URL.
_PART: Final = r"[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*"
_MODEL: Final = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")
_MODEL_MOST: Final = 128
_STOPS_MOST, _STOP_MOST = 16, 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request for a generation, checked and completed."""

    model: str
    asked: dict[str, Any]  # prompt, messages or input, and what else shapes the answer
    options: dict[str, Any]
    stream: bool
    path: str = GENERATE

    def body(self) -> dict[str, Any]:
        """What is sent upstream. A stream where there are any: an answer then may take
        as long as it flows, and a broken one is told from a complete one."""
        body = {"model": self.model, **self.asked}
        body |= {} if self.path == EMBED else {"stream": True}
        return body | ({"options": self.options} if self.options else {})

    def only_loads(self) -> bool:
        """Whether it asks nothing, but to have the model ready."""
        return not any(map(self.asked.get, ("prompt", "messages", "input")))

    def is_repeatable(self) -> bool:
        """Whether the model gives the same answer again: a seed, or no temperature, or
        an embedding, which leaves nothing to chance."""
        if self.path == EMBED:
            return True
        seeded = self.options.get("seed", -1) >= 0  # a negative seed means a random one
        return seeded or self.options.get("temperature") == 0

    def leaves_chance_open(self) -> bool:
        """Whether the request says nothing about how random the answer should be."""
        return "seed" not in self.options and "temperature" not in self.options

    def size(self) -> int:
        """Bytes of what is asked, options aside."""
        return len(orjson.dumps(self.asked))

    def is_cacheable(self) -> bool:
        """Whether a repeat may get the same answer, by the setting OLLAMA_CACHE."""
        if self.only_loads():
            return False
        mode = conf.OLLAMA_CACHE
        if mode == "plain":
            return self.is_repeatable() or self.leaves_chance_open()
        return mode == "all" or (mode == "repeatable" and self.is_repeatable())

    def digest(self, owner: str) -> str:
        """The same for two requests of one `owner` exactly if they ask the same.

        Over every field that shapes the answer, so not over `stream`. Numbers count
        by value: a temperature of 0 and of 0.0 is one. The order of fields and of
        options means nothing; what is in a field is taken in the order it came, as the
        model writes the properties of a schema, and reads those of a tool, in theirs.
        """
        options = {
            name: float(value) if _is_number(value) else value
            for name, value in sorted(self.options.items())
        }
        where = [owner, conf.OLLAMA_BASE_URL, self.path, tagged(self.model)]
        text = orjson.dumps([*where, dict(sorted(self.asked.items())), options])
        return hashlib.sha256(text).hexdigest()


def tagged(name: str) -> str:
    """The name with its tag, which is `latest` where it says none."""
    return name if ":" in name else f"{name}:latest"


def parse(body: Any) -> Prompt:
    """The request in a decoded JSON body.

    Raises InvalidPayload for what is no request, PayloadTooLarge for a prompt that is
    too long.
    """
    if not isinstance(body, dict):
        raise errors.InvalidPayload("the body must be a JSON object")
    check_fields(body, FIELDS)
    prompt = text("prompt", body.get("prompt"))
    if not prompt.strip():
        raise errors.InvalidPayload("prompt must not be empty")
    check_size("prompt", len(prompt.encode()))
    return Prompt(
        model(body.get("model")),
        {"prompt": prompt},
        options(body.get("options")),
        boolean("stream", body.get("stream"), False),
    )


def check_fields(body: dict[str, Any], names: Sequence[str]) -> None:
    """InvalidPayload for a field that there is not."""
    unknown = sorted(body.keys() - set(names))
    if unknown:
        raise errors.InvalidPayload(
            f"unknown field {unknown[0][:80]!r}; there are {', '.join(names)}"
        )


def check_size(name: str, size: int) -> None:
    """PayloadTooLarge for more bytes than a prompt may have."""
    most = conf.OLLAMA_PROMPT_MAX_BYTES
    if size > most:
        raise errors.PayloadTooLarge(f"{name} has more than {most:,} bytes")


def boolean(name: str, value: Any, default: bool) -> bool:
    """True or false, `default` for null; InvalidPayload for anything else."""
    if not isinstance(value, bool | None):
        raise errors.InvalidPayload(f"{name} must be true or false")
    return default if value is None else value


def text(name: str, value: Any) -> str:
    """The text, or InvalidPayload."""
    if not isinstance(value, str):
        raise errors.InvalidPayload(f"{name} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise errors.InvalidPayload(f"{name} holds half a surrogate pair") from None
    return value


def model(value: Any) -> str:
    """The model's name, the default for null; InvalidPayload if it may not be."""
    if value is None:
        return conf.OLLAMA_MODEL
    if not isinstance(value, str):
        raise errors.InvalidPayload("model must be a string")
    if len(value) > _MODEL_MOST or not _MODEL.fullmatch(value):
        raise errors.InvalidPayload(
            "model is not a model's name; they look like llama3.2 or "
            "hf.co/org/model:tag"
        )
    if not is_allowed(value):
        raise errors.InvalidPayload(f"model {value!r} is not one of those allowed here")
    return value


def is_allowed(name: str) -> bool:
    """Whether this model may be asked here; a missing tag is `latest`, as everywhere:
    lists of models name the tag, settings mostly do not."""
    if not conf.OLLAMA_MODELS:
        return True
    names = {tagged(each) for each in (conf.OLLAMA_MODEL, *conf.OLLAMA_MODELS)}
    return tagged(name) in names


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, most: int) -> Callable[[Any], str]:
    def wrong(value: Any) -> str:
        whole = isinstance(value, int) and not isinstance(value, bool)
        ok = whole and least <= value <= most
        return "" if ok else f"must be a whole number from {least} to {most}"

    return wrong


def _number(least: float, most: float) -> Callable[[Any], str]:
    def wrong(value: Any) -> str:
        ok = _is_number(value) and math.isfinite(value) and least <= value <= most
        return "" if ok else f"must be a number from {least:g} to {most:g}"

    return wrong


def _tokens(value: Any) -> str:
    return _whole(-2, conf.OLLAMA_TOKENS_MAX)(value)  # -1 endless, -2 fill the context


def _context(value: Any) -> str:
    return _whole(1, conf.OLLAMA_TOKENS_MAX)(value)


def _stops(value: Any) -> str:
    ok = isinstance(value, list) and len(value) <= _STOPS_MOST
    ok = ok and all(isinstance(s, str) and 0 < len(s) <= _STOP_MOST for s in value)
    # Half a surrogate pair is no text; only JSON escapes can spell one.
    ok = ok and all(
        s.isascii() or s.encode(errors="ignore").decode() == s for s in value
    )
    return "" if ok else f"must be a list of at most {_STOPS_MOST} short strings"


# Ollama's options that shape an answer. Those that choose hardware (num_gpu, use_mmap,
# num_thread, …) are left out: they make the server load its model anew, for everybody.
OPTIONS: Final[dict[str, Callable[[Any], str]]] = {
    "seed": _whole(-(2**31), 2**53 - 1),  # beyond it JSON numbers are not exact
    "temperature": _number(0, 10),
    "num_predict": _tokens,
    "num_ctx": _context,
    "num_keep": _whole(-1, 2**31),
    "stop": _stops,
    "top_k": _whole(-1, 1_000_000),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1),
    "tfs_z": _number(0, 10),
    "repeat_last_n": _whole(-1, 2**31),
    "repeat_penalty": _number(0, 10),
    "presence_penalty": _number(-10, 10),
    "frequency_penalty": _number(-10, 10),
    "mirostat": _whole(0, 2),
    "mirostat_tau": _number(0, 100),
    "mirostat_eta": _number(0, 10),
    "penalize_newline": lambda value: (
        "" if isinstance(value, bool) else "must be true or false"
    ),
}


def options(value: Any) -> dict[str, Any]:
    """The options, each within its range, or InvalidPayload."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise errors.InvalidPayload("options must be an object")
    for name, given in value.items():
        check = OPTIONS.get(name)
        if check is None:
            raise errors.InvalidPayload(
                f"unknown option {name[:80]!r}; there are {', '.join(OPTIONS)}"
            )
        if wrong := check(given):
            raise errors.InvalidPayload(f"option {name} {wrong}")
    return dict(value)
