"""What payloads of a topic look like, and how one differs from them."""

from __future__ import annotations

from typing import Any

import pytest

from dashboard import shape

MAIL = [{"address": f"{n}@b.c", "n": n, "who": {"id": n}} for n in range(5)]
RARE = [*MAIL, {**MAIL[0], "cc": None}, {**MAIL[0], "cc": "x"}]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"address": "x", "n": 1.5, "who": {"id": 7}}, []),
        ({"address": "x", "n": 1, "who": {"id": 7}, "cc": "y"}, []),
        ({"address": "x", "n": 1, "who": {"id": 7}, "cc": None}, []),
        (
            {"adress": "x", "n": 1, "who": {"id": 7}},
            [
                "“address” is missing: all others have it. Is it “adress”?",
                "“adress” is in none of the others.",
            ],
        ),
        ({"address": "x", "n": 1}, ["“who” is missing: all others have it."]),
        (
            {"address": "x", "n": 1, "who": {}},
            ["“who.id” is missing: all others have it."],
        ),
        (
            {"address": "x", "n": "1", "who": {"id": 7}},
            ["“n” is text; elsewhere it is a number."],
        ),
        (
            {"address": "x", "n": True, "who": {"id": 7}},
            ["“n” is yes or no; elsewhere it is a number."],
        ),
        (
            {"address": "x", "n": 1, "who": {"id": 7}, "ccc": "x"},
            ["“ccc” is in none of the others. Is it “cc”?"],
        ),
        (
            {"address": "x", "n": 1, "who": {"id": 7}, "more": {"a": {"b": 1}}},
            ["“more” is in none of the others."],
        ),
        ([1], ["It is a list; here payloads are an object."]),
        (None, ["It is null; here payloads are an object."]),
    ],
)
def test_it_tells_how_a_payload_differs(payload: Any, told: list[str]) -> None:
    assert shape.learn(RARE).differences(payload) == told


def test_few_payloads_are_no_rule_and_none_is_no_shape() -> None:
    assert shape.learn(MAIL[:4]).differences({"other": 1}) == []
    assert shape.learn(MAIL).differences({"other": 1})
    assert shape.learn([]).told == []


def test_fields_are_told_with_kind_share_and_an_example() -> None:
    told = {each.path: each for each in shape.learn(RARE).told}

    assert [*told] == ["address", "n", "who", "who.id", "cc"]
    assert (told["address"].kind, told["address"].count, told["address"].example) == (
        *("text", 7),
        "0@b.c",
    )
    assert told["cc"].kind == "null or text" and told["cc"].count == 2
    assert told["who"].example == ""


def test_a_monster_is_gone_into_only_so_far() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    wide = {f"f{n}": n for n in range(10_000)}

    assert len(shape.learn([deep]).fields) == 4
    assert len(shape.learn([wide]).fields) == 100
    assert len(shape.learn([wide]).told) == 20
    assert len(shape.learn(MAIL).differences(wide)) == 5


def test_an_example_is_cut_to_40_characters() -> None:
    [told] = shape.learn([{"text": "x" * 41}]).told

    assert told.example == "x" * 39 + "…"


def test_payloads_of_several_kinds_are_told_together() -> None:
    several = shape.learn([1, "a", None, 1, 1])

    assert several.differences({}) == [
        "It is an object; here payloads are a number or null or text."
    ]


def test_what_is_no_json_has_a_name_too() -> None:
    strange = shape.learn([{"x": {1}} for _ in range(5)])

    assert strange.differences({"x": 1}) == [
        "“x” is a number; elsewhere it is something else."
    ]
