"""Cells of long tables are made by code: nothing breaks out of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import NoReverseMatch, get_script_prefix, set_script_prefix
from hypothesis import given
from hypothesis import strategies as st

from bus import volley
from dashboard import links
from dashboard.templatetags import table

VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    st.lists(st.text(max_size=5), max_size=2),
)


@pytest.fixture
def below() -> Iterator[str]:
    """The site hangs below a path of another one."""
    before = get_script_prefix()
    set_script_prefix("/mesh/")
    yield "/mesh/"
    set_script_prefix(before)


@pytest.mark.parametrize(
    ("value", "how", "css", "text"),
    [
        (1234, "number", "num", "1,234"),
        (0, "number", "num zero", "0"),
        (None, "duration", "num zero", "–"),
        (0.26, "rate", "num", "0.3"),
        (2048, "size", "num", "2.0 KiB"),
        ("<b>", "number", "num", "–"),
        (float("inf"), "duration", "num", "–"),
        (float("nan"), "duration", "num", "–"),
        (10**400, "size", "num", "–"),
    ],
)
def test_a_cell_with_a_number_is_quiet_without_one(
    value: Any, how: str, css: str, text: str
) -> None:
    cell = table.num("Done", value, how)

    assert cell == f'<td class="{css}" data-label="Done">{text}</td>'


@given(VALUES, st.sampled_from(["duration", "number", "rate", "size"]))
def test_whatever_an_agent_tells_stays_in_its_cell(value: Any, how: str) -> None:
    assert re.fullmatch(r"<td [^<>]*>[^<>&\"']*</td>", table.num("Done", value, how))


def test_topics_of_an_agent_are_named_up_to_three() -> None:
    assert table.served(["a", "b", "c"]) == "a, b, c"
    assert table.served(list("abcde")).endswith('a, b, c <span class="muted">+2</span>')
    assert table.served(["<b>", {"x": 1}]) == "&lt;b&gt;, {&quot;x&quot;: 1}"
    assert "–" in table.served([])


def test_a_line_reaches_from_the_bottom_to_the_top() -> None:
    drawn = table.sparkline([0, 5, 10], "Done")

    assert 'points="0.0,22.5 48.0,12.0 96.0,1.5"' in drawn
    assert "Done, last 3 minutes: 0 to 10 per minute" in drawn


def test_nothing_is_no_line() -> None:
    assert "svg" not in table.sparkline([0, 0], "Done")
    assert "svg" not in table.sparkline([], "Done")


def test_a_page_is_found_wherever_the_site_hangs(below: str) -> None:
    assert links.topic("mail") == f"{below}topics/mail/"
    set_script_prefix("/")
    assert links.topic("mail") == "/topics/mail/"
    assert links.dead_of("a:b") == "/dead/?topic=a%3Ab"


def test_what_is_no_part_of_an_address_has_no_page() -> None:
    for _ in range(2):
        with pytest.raises(NoReverseMatch):
            links.agent("a/b")


def test_a_hash_is_read_in_both_protocols() -> None:
    told = {"a": "1", "b": "2"}

    assert volley.pairs(told) == volley.pairs(["a", "1", "b", "2"]) == told
    assert volley.pairs([]) == {}


def test_topics_of_a_failure_are_named_up_to_three() -> None:
    link = '<a href="/topics/{0}/">{0}</a>'
    three = ", ".join(map(link.format, "abc"))

    assert table.topic_names(["a", "b", "c"]) == three
    assert table.topic_names(list("abcde")) == f'{three} <span class="muted">+2</span>'
