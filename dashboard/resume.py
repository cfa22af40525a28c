"""The first frame of a socket: what its client knows, and what it wants to be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from bus import errors, keys, roles
from bus.conf import conf
from bus.live import window
from dashboard import painting, watched
from dashboard.watched import Watched

# Close codes of ours; 1009, 1012 and 1013 have their usual meaning.
BAD_FRAME: Final = 4400
SIGN_IN: Final = 4401
FORBIDDEN: Final = 4403
NO_FRAME: Final = 4408
TOO_MANY: Final = 4429
TOO_BIG: Final = 1009
TRY_LATER: Final = 1013

FRAME_MOST_BYTES: Final = 65_536
ROWS: Final = (window.RESULTS, window.DEAD)
TOLD: Final = (*ROWS, *painting.REGIONS, painting.TOPIC)
_FIELDS: Final = {"op", "after", "topics", "html", "regions", "most", "only"}
_SHAPE: Final = 'such as {"op": "resume", "after": {}, "topics": null}'


class Refused(Exception):
    """Why a socket is closed: a stable `code`, a sentence, the close code."""

    def __init__(self, code: str, detail: str, close: int) -> None:
        super().__init__(detail)
        self.code, self.detail, self.close = code, detail, close


@dataclass(frozen=True, slots=True)
class Resume:
    """What a client asks for; `topics` None means all it may see.

    `html` adds the rows and regions of pages, `regions` says which frames it wants,
    `most` bounds the tables of topics and of agents, `only` filters the results.
    """

    after: dict[str, str]
    topics: set[str] | None
    html: bool
    regions: frozenset[str]
    most: int | None
    only: Watched


def parse(text: str | None, principal: roles.Principal) -> Resume:
    """The resume frame, or Refused."""
    if text is None:
        raise _bad(f"a text frame was expected, {_SHAPE}")
    if len(text.encode("utf-8", "surrogatepass")) > FRAME_MOST_BYTES:
        most = f"{FRAME_MOST_BYTES:,}"
        raise Refused("frame_too_large", f"frames hold at most {most} bytes", TOO_BIG)
    try:
        frame = orjson.loads(text)
    except (ValueError, RecursionError):
        raise _bad(f"this is not JSON; a resume frame was expected, {_SHAPE}") from None
    if not isinstance(frame, dict) or frame.get("op") != "resume":
        raise _bad(f'the first frame is {{"op": "resume", …}}, {_SHAPE}')
    unknown = sorted(frame.keys() - _FIELDS)
    if unknown:
        raise _bad(f"unknown field {unknown[0][:40]!r}; known: {sorted(_FIELDS)}")
    topics = _topics(frame.get("topics"), principal)
    html = frame.get("html", False)
    if not isinstance(html, bool):
        raise _bad("html is true or false")
    if html and principal.topics:
        raise _bad("html is for pages; a token bound to topics gets rows as JSON")
    return Resume(
        _after(frame.get("after", {}), principal),
        topics,
        html,
        _regions(frame.get("regions"), topics),
        _most(frame.get("most")),
        _only(frame.get("only")),
    )


def _after(after: Any, principal: roles.Principal) -> dict[str, str]:
    if not isinstance(after, dict):
        raise _bad("after maps streams to entry ids")
    for stream, cursor in after.items():
        topic = _topic_of(stream)
        if not principal.may_topic(topic):
            detail = f"topic {topic!r} is not among those of this token"
            raise Refused("forbidden", detail, FORBIDDEN)
        try:
            window.parse_cursor(cursor)
        except errors.InvalidName as exc:
            raise _bad(str(exc)) from None
    return after


def _topic_of(stream: str) -> str:
    """The topic of a stream that is told here; a mistyped name would lose rows."""
    topic = stream.partition("{")[2].removesuffix("}")
    try:
        known = (keys.result_stream(topic), keys.dead_stream(topic))
        if stream in (*known, keys.named("events", topic)):
            return topic
    except errors.InvalidName:
        pass
    example = keys.result_stream("demo")
    raise _bad(f"no stream {stream[:80]!r} is told here; one looks like {example!r}")


def _topics(topics: Any, principal: roles.Principal) -> set[str] | None:
    if topics is None:
        return None
    if not isinstance(topics, list) or len(topics) > conf.TOPICS_MAX:
        raise _bad(f"topics is null or a list of at most {conf.TOPICS_MAX:,} names")
    for name in topics:
        try:
            keys.check_topic(name)
        except errors.InvalidName as exc:
            raise _bad(str(exc)) from None
        if not principal.may_topic(name):
            detail = f"topic {name!r} is not among those of this token"
            raise Refused("forbidden", detail, FORBIDDEN)
    return set(topics)


def _regions(regions: Any, topics: set[str] | None) -> frozenset[str]:
    one = topics is not None and len(topics) == 1
    if regions is None:
        return frozenset(TOLD) if one else frozenset(TOLD) - {painting.TOPIC}
    names = regions if isinstance(regions, list) else [regions]
    if not all(isinstance(name, str) and name in TOLD for name in names):
        raise _bad(f"regions is a list of {', '.join(TOLD)}")
    if painting.TOPIC in names and not one:
        raise _bad("the region topic is about one: topics is a list of its name")
    return frozenset(names)


def _most(most: Any) -> int | None:
    whole = isinstance(most, int) and not isinstance(most, bool)
    if most is not None and not (whole and 1 <= most <= 1_000):
        raise _bad("most is 1 to 1,000, or null")
    return most  # type: ignore[no-any-return]


def _only(only: Any) -> Watched:
    if only is not None and not isinstance(only, dict):
        raise _bad("only is null or an object with state, agent and q")
    told = only or {}
    unknown = sorted(told.keys() - watched.NAMES)
    if unknown:
        raise _bad(f"unknown field only.{unknown[0][:40]}; known: {watched.NAMES}")
    try:
        return watched.of(told)
    except errors.InvalidOption as exc:
        raise _bad(f"only: {exc}") from None


def _bad(detail: str) -> Refused:
    return Refused("invalid_frame", detail, BAD_FRAME)
