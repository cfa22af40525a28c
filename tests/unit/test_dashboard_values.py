"""Values as pages show them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import fields, formats
from dashboard.templatetags import mesh


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (True, "–"),
        ("3", "–"),
        (0, "0 ms"),
        (0.85, "850 ms"),
        (0.9999, "1.0 s"),
        (3.24, "3.2 s"),
        (59.96, "60 s"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: Any, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (3.4e6, "3.4 M")],
)
def test_a_large_number_is_short_and_whole_in_its_title(value: Any, text: str) -> None:
    shown = str(formats.compact(value))

    assert text in shown
    assert value is None or value < 10_000 or f'title="{value:,.0f}"' in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.26, "0.3"), (9.94, "9.9"), (9.95, "10")],
)
def test_a_rate_has_a_decimal_where_there_are_few(value: Any, text: str) -> None:
    assert formats.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_bytes_are_binary(value: Any, text: str) -> None:
    assert formats.size(value) == text


@given(st.text(), st.sampled_from(["demo", "a:b"]))
def test_the_call_to_copy_survives_the_shell(text: str, topic: str) -> None:
    call = formats.curl("http://127.0.0.1:8000", topic, {"text": text})

    words = shlex.split(call.replace("\\\n", ""))

    assert words[:2] == ["curl", "http://127.0.0.1:8000/api/v1/mesh/enqueue"]
    assert words[2:6] == [
        *("-H", "Authorization: Bearer $MESH_TOKEN"),
        *("-H", "Content-Type: application/json"),
    ]
    assert words[-1] == formats._dumped({"topic": topic, "task": {"text": text}}, None)


def test_a_preview_is_cut_after_a_hundred_characters() -> None:
    assert formats.preview("x" * 100) == "x" * 100
    assert formats.preview("x" * 101) == "x" * 99 + "…"
    assert formats.preview("a \n b", 3) == "a b"


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_a_preview_is_one_line_of_bounded_length(value: Any) -> None:
    line = formats.preview(value, 40)

    assert len(line) <= 40 and "\n" not in line


def test_a_preview_reads_no_more_than_it_shows() -> None:
    read: list[int] = []

    class Long(list[int]):
        def __iter__(self) -> Iterator[int]:
            for each in super().__iter__():
                read.append(each)
                yield each

    line = formats.preview({"lines": Long(range(100_000))}, 40)

    assert line.startswith('{"lines": [0, 1, 2,') and len(read) < 200


def test_an_odd_state_or_time_is_shown_as_it_is() -> None:
    assert "<b>" not in mesh.task_state("<b>")
    assert mesh.when("<b>") == mesh.when(None) == mesh.entry_when("x") == "–"
    assert mesh.sentence("a <b> at 2026-11-24T15:38:25.618Z.") == (
        'a &lt;b&gt; at <time datetime="2026-11-24T15:38:25.618Z" data-absolute>'
        "2026-11-24 15:38:25 UTC</time>."
    )


@pytest.mark.parametrize(
    "text", ["\u202egnp.exe", "\x1b[2J", "a\u2028b", "\u2066\u200b"]
)
def test_what_nobody_sees_is_shown_and_stays_the_same_json(text: str) -> None:
    shown = formats.seen(json.dumps(text, ensure_ascii=False))

    assert shown.isascii() and shown.isprintable()
    assert json.loads(shown) == text


def test_what_a_form_sends_again_stays_as_it_is() -> None:
    field = '<input name="q" value="a\u202eb">\n<textarea>a\u202eb\n</textarea>'
    spoof = '<a title="&lt;input value=\u202e">value=\u202e</a>'

    assert formats.seen(field + spoof) == field + spoof.replace("\u202e", "\\u202e")


def test_joined_emoji_tabs_and_lines_are_left_alone() -> None:
    text = "\U0001f469\u200d\U0001f680\t\r\nشُ"

    assert formats.seen(text) == text


@pytest.mark.parametrize(
    ("before", "after", "detail", "text"),
    [
        ({"a": 1, "b": 2}, {"a": 5, "b": 2}, {}, "a 1 → 5"),
        ({"a": 1}, {"a": None, "c": "x"}, {}, "a 1 → null, c null → x"),
        ({"a": 1}, {"a": 1}, {}, "no change"),
        ({"a": 1}, [2], {}, '{"a": 1} → [2]'),
        (0, False, {}, "0 → false"),
        (None, {"a": 1}, {"state": "cancelled", "n": 2}, "state cancelled, n 2"),
        ({"a": 1}, None, {}, "details"),
    ],
)
def test_a_change_reads_member_by_member(
    before: Any, after: Any, detail: dict[str, Any], text: str
) -> None:
    entry = {"before": before, "after": after, "detail": detail}

    assert formats.change(entry) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "10 %"), (0.005, "0.5 %"), (1, "100 %"), (None, "–")]
)
def test_a_share_is_told_in_percent(share: Any, text: str) -> None:
    assert formats.percent(share) == text


@pytest.mark.parametrize(
    ("task_id", "text"),
    [
        ("0198c0de-0000-7000-8000-00000000abcd", "0198c0de…00abcd"),
        ("x" * 18, "x" * 18),
        ("x" * 19, "xxxxxxxx…xxxxxx"),
        (None, ""),
        (7, "7"),
    ],
)
def test_an_id_is_shortened_in_its_middle(task_id: object, text: str) -> None:
    assert formats.short(task_id) == text


def test_json_is_cut_where_a_browser_would_suffer() -> None:
    most = 64 * 1024 - 2  # beside its quotes

    assert formats.pretty({"ä": [1]}) == '{\n  "ä": [\n    1\n  ]\n}'
    assert formats.pretty("x" * most) == f'"{"x" * most}"'
    assert formats.pretty("x" * (most + 2_000)) == (
        f'"{"x" * (most + 1)}\n… 2,000 more characters'
    )


def test_what_is_no_json_is_shown_as_text() -> None:
    assert formats.pretty({1, 2}) == "{1, 2}"
    assert formats.preview({1, 2}) == "{1, 2}"


def test_an_error_is_a_sentence_with_fields_called_as_on_the_page() -> None:
    wrong = ValueError("max_attempts is not 1 to 1,000")

    assert formats.said(wrong) == "Max_attempts is not 1 to 1,000."
    assert formats.said(wrong, {"max_attempts": "attempts at most"}) == (
        "Attempts at most is not 1 to 1,000."
    )
    assert formats.said(ValueError()) == "."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"type": "E", "message": "m"}, "E: m"),
        ({"type": "E", "message": ""}, "E"),
        ({"message": 7}, "7"),
        ({}, "–"),
        (None, "–"),
        ("odd", "odd"),
        (["x" * 400], '["' + "x" * 297 + "…"),
    ],
)
def test_an_error_of_any_shape_is_one_line(error: Any, text: str) -> None:
    assert formats.error_line(error) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((9_999, "9,999"), (10_000, "10.0 k"), (999_999, "1000.0 k")),
        *((1_000_000, "1.0 M"), (3_400_000, "3.4 M"), (1_000_000_000, "1.0 G")),
        *((None, "–"), (True, "–")),
    ],
)
def test_a_large_count_is_short_and_whole_in_its_title(value: Any, text: str) -> None:
    shown = formats.compact(value)

    if " " in text:
        assert shown == f'<span title="{value:,}">{text}</span>'
    else:
        assert shown == text


def test_milliseconds_are_told_as_durations() -> None:
    assert (formats.ms(2_500), formats.ms(1_000)) == ("2.5 s", "1.0 s")
    assert formats.ms("x") == formats.number("x") == "–"
    assert (formats.number(1_234.4), formats.rate(1_234.4)) == ("1,234", "1,234")


@pytest.mark.parametrize(
    "text", ["2026-12-01T00:00", "2026-12-01T00:00:00Z", "2026-12-01T02:00+02:00"]
)
def test_a_time_that_names_its_offset_is_taken_with_it(text: str) -> None:
    assert fields.utc_ms(text) == 1_796_083_200_000
