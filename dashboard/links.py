"""Addresses of pages; every link to a task carries its topic.

Long tables ask for the same ones again and again, and Django looks through all routes
each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlencode

from django.urls import NoReverseMatch, get_script_prefix, reverse


def to(page: str, *args: str) -> str:
    """The path of a page by the name of its route; NoReverseMatch."""
    return _path(get_script_prefix(), page, *args)


@lru_cache(maxsize=8_192)
def _path(below: str, page: str, *args: str) -> str:
    """`below` is where the site hangs, which differs from server to server."""
    return reverse(f"dashboard:{page}", args=args)


def task(task_id: str, topic: str) -> str:
    """The page of a task."""
    return _of("task", task_id, topic)


def letter(task_id: str, topic: str) -> str:
    """The page of a dead letter."""
    return _of("letter", task_id, topic)


def _of(page: str, task_id: str, topic: str) -> str:
    return to(page, task_id) + _asked(topic)


def topic(name: str) -> str:
    """The page of a topic."""
    return to("topic", name)


def dead_of(topic: str) -> str:
    """The dead letters of a topic."""
    return to("dead") + _asked(topic)


def tasks_of(state: str, topic: str) -> str:
    """The tasks of a topic in this state."""
    return f"{to('tasks')}?{urlencode({'state': state, 'topic': topic})}"


def group_of(fingerprint: str, topic: str) -> str:
    """The letters of one failure in a topic, in all of them for none.

    A fingerprint by hand may be no part of a path: then all letters of the topic.
    """
    asked = _asked(topic) if topic else ""
    try:
        return to("group", fingerprint) + asked
    except NoReverseMatch:
        return to("dead") + asked


@lru_cache(maxsize=8_192)
def _asked(topic: str) -> str:
    return f"?{urlencode({'topic': topic})}"


_FILES: Final = (("csv", "CSV"), ("jsonl", "JSON Lines"))


def files(call: str, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Words and address of each file that a call of the API gives."""
    told = {name: text for name, text in given.items() if text}
    return [
        (words, f"{reverse(call)}?{urlencode({**told, 'format': kind})}")
        for kind, words in _FILES
    ]


def agent(agent_id: str) -> str:
    """The page of an agent."""
    return to("agent", agent_id)
