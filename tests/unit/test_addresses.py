"""Addresses of pages, and numbers typed into their fields."""

from __future__ import annotations

import pytest

from bus import errors
from dashboard import fields, links


def test_every_link_to_a_task_carries_its_topic() -> None:
    assert links.task("id-1", "a:b") == "/tasks/id-1/?topic=a%3Ab"
    assert links.letter("id-1", "a:b") == "/dead/id-1/?topic=a%3Ab"
    assert links.group_of("f1", "a:b") == "/dead/groups/f1/?topic=a%3Ab"


def test_lists_are_linked_with_their_filter() -> None:
    assert links.dead_of("mail") == "/dead/?topic=mail"
    assert links.tasks_of("waiting", "a:b") == "/tasks/?state=waiting&topic=a%3Ab"


def test_topics_and_agents_have_pages_of_their_own() -> None:
    assert links.topic("mail") == "/topics/mail/"
    assert links.agent("mill@b.c") == "/agents/mill@b.c/"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 12 ", 12),
        ("1.5", 1.5),
        ("-3", -3.0),
        ("1e3", 1000.0),
        ("", None),
        (" ", None),
    ],
)
def test_a_field_holds_a_number_or_nothing(text: str, number: float | None) -> None:
    found = fields.number("limit", text)

    assert found == number
    assert isinstance(found, int) == text.strip().isdecimal()


def test_a_field_with_something_else_is_named() -> None:
    with pytest.raises(errors.InvalidOption) as caught:
        fields.number("limit", "x" * 50)

    assert str(caught.value) == f"limit: '{'x' * 39} is not a number"
    assert caught.value.__cause__ is None
