"""Addresses of pages; every link to a task carries its topic."""

from __future__ import annotations

from urllib.parse import urlencode

from django.urls import reverse


def task(task_id: str, topic: str) -> str:
    """The page of a task."""
    return _of("dashboard:task", task_id, topic)


def letter(task_id: str, topic: str) -> str:
    """The page of a dead letter."""
    return _of("dashboard:letter", task_id, topic)


def _of(name: str, task_id: str, topic: str) -> str:
    return f"{reverse(name, args=[task_id])}?{urlencode({'topic': topic})}"


def topic(name: str) -> str:
    """The page of a topic."""
    return reverse("dashboard:topic", args=[name])


def agent(agent_id: str) -> str:
    """The page of an agent."""
    return reverse("dashboard:agent", args=[agent_id])
