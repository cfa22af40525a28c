"""Payloads: what is JSON here, how much of it, and that it comes back unchanged."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import hypothesis
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from bus import endings, errors, letters, messages
from tests.support import ids
from tests.support.processes import program

LIMIT = 256 * 1024
EXACT = 2**53 - 1  # integers up to here survive every JSON reader


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: int
    right: int


@dataclass
class Point:
    x: int


class LoudText(str):
    pass


class Registry(dict[str, int]):
    pass


def in_list(inner: Any) -> list[Any]:
    return [inner]


def in_tuple(inner: Any) -> tuple[Any]:
    return (inner,)


def in_object(inner: Any) -> dict[str, Any]:
    return {"k": inner}


WRAPS = (in_list, in_tuple, in_object)


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    """A value inside `depth` containers."""
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-EXACT, EXACT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5)
    ),
    max_leaves=30,
)


@hypothesis.settings(deadline=None)
@given(JSON)
def test_a_payload_comes_back_as_it_was(payload: Any) -> None:
    again = messages.decode(messages.encode(payload))

    assert again == payload
    assert repr(again) == repr(payload)  # 1, 1.0, True and -0.0 stay apart


@hypothesis.settings(deadline=None)
@given(JSON)
def test_a_payload_is_one_line_of_compact_json(payload: Any) -> None:
    text = messages.encode(payload)

    assert b"\n" not in text
    assert orjson.loads(text) == payload


def test_the_sample_of_every_kind_comes_back(sample_task_data: dict[str, Any]) -> None:
    assert messages.decode(messages.encode(sample_task_data)) == sample_task_data


def test_names_that_javascript_fears_are_data() -> None:
    payload = {"__proto__": {"x": 1}, "constructor": [], "\x00": "\x00", "": None}

    assert messages.decode(messages.encode(payload)) == payload


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, float("1e400")])
@pytest.mark.parametrize(
    "place",
    [
        lambda bad: bad,
        lambda bad: [1, bad],
        lambda bad: {"k": {"deep": [None, {"x": bad}]}},
        lambda bad: ("a", bad),
        lambda bad: {"many": [0] * 100, "last": bad, "null": None},
    ],
    ids=["bare", "list", "deep", "tuple", "hidden"],
)
def test_it_refuses_a_number_that_json_does_not_have(
    place: Callable[[float], Any], number: float
) -> None:
    with pytest.raises(errors.InvalidPayload, match="payload holds .* not JSON"):
        messages.encode(place(number))


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udfff\ud800"], ids=ids.plain)
@pytest.mark.parametrize(
    "place",
    [lambda bad: bad, lambda bad: [bad], lambda bad: {"k": bad}, lambda bad: {bad: 1}],
    ids=["bare", "list", "value", "key"],
)
def test_it_refuses_a_lone_surrogate(place: Callable[[str], Any], text: str) -> None:
    said = r"payload is not JSON: .* half of a surrogate .*\(one of \\ud800 to \\udfff"
    with pytest.raises(errors.InvalidPayload, match=said):
        messages.encode(place(text))


def test_a_pair_of_surrogates_that_means_a_character_is_fine() -> None:
    assert messages.decode('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        {1, 2},
        frozenset(),
        object(),
        lambda: None,
        1j,
        range(3),
        (n for n in range(3)),
        decimal.Decimal("1.5"),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        datetime.date(2026, 1, 1),
        datetime.time(12),
        uuid.UUID(int=0),
        Colour.RED,
        Point(1),
        Pair(1, 2),
        LoudText("a"),
        Registry(a=1),
        {1: "a number as key"},
        {None: 1},
        {("a",): 1},
        {b"k": 1},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", [lambda bad: bad, in_object], ids=["bare", "inside"])
def test_it_refuses_what_is_not_json(place: Callable[[Any], Any], value: Any) -> None:
    """Silently turning it into something else would lose what it was."""
    with pytest.raises(errors.InvalidPayload, match="payload is not JSON"):
        messages.encode(place(value))


@pytest.mark.parametrize("number", [EXACT, -EXACT, 0, -1])
def test_it_takes_integers_that_every_reader_keeps(number: int) -> None:
    assert messages.decode(messages.encode([number])) == [number]


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, -(2**53) - 1, 2**63, -(2**63) - 1, 2**64, 10**5000],
    ids=["2^53+1", "-2^53-1", "2^63", "-2^63-1", "2^64", "5,001 digits"],
)
def test_it_refuses_an_integer_that_readers_would_round(number: int) -> None:
    said = "^payload holds an integer beyond .*would round; send it as text$"
    with pytest.raises(errors.InvalidPayload, match=said):
        messages.encode({"n": number})


@pytest.mark.parametrize("wrap", WRAPS)
def test_it_takes_a_depth_of_32(wrap: Callable[[Any], Any]) -> None:
    assert messages.encode(nested(32, wrap)).count(b"1") == 1


@pytest.mark.parametrize("depth", [33, 34, 254, 1_000])
@pytest.mark.parametrize("wrap", WRAPS)
def test_it_refuses_a_depth_beyond_32(wrap: Callable[[Any], Any], depth: int) -> None:
    said = "^payload is nested deeper than 32 levels$"
    with pytest.raises(errors.InvalidPayload, match=said):
        messages.encode(nested(depth, wrap))


@pytest.mark.parametrize("wrap", ["[v]", "(v,)", "{'k': v}"])
@pytest.mark.parametrize(
    "call",
    [
        "messages.encode(v)",
        "messages.encode_result(v, 1_000_000)",
        "bus.move_to_dead('demo', '1-0', v)",
        "bus.register_agent('a', 't', meta={'v': v})",
    ],
    ids=["payload", "result", "letter", "meta"],
)
def test_a_value_nested_without_end_does_not_kill_the_process(
    call: str, wrap: str
) -> None:
    """In a process of its own: a serialiser that recurses in C takes it along."""
    source = (
        "import bus\n"
        "from bus import errors, messages\n"
        "v = 1\n"
        f"for _ in range(100_000): v = {wrap}\n"
        f"try: {call}\n"
        "except errors.InvalidPayload as exc: print('refused')\n"
    )

    with program(source) as process:
        said, _ = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, "refused\n")


def test_brackets_inside_text_are_not_depth() -> None:
    payload = ["[{" * 1_000, "}]" * 1_000]

    assert messages.decode(messages.encode(payload)) == payload


def test_many_shallow_containers_are_not_depth() -> None:
    payload = [[] for _ in range(1_000)]

    assert messages.decode(messages.encode(payload)) == payload


def test_it_refuses_a_value_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(errors.InvalidPayload):
        messages.encode(loop)


@pytest.mark.parametrize(
    "payload",
    [
        [0] * 9_999,
        [[] for _ in range(9_999)],
        {str(n): None for n in range(9_999)},
        [{"k": [0] * 98} for _ in range(99)],
    ],
    ids=["numbers", "empty lists", "keys", "records"],
)
def test_it_takes_up_to_10_000_nodes(payload: Any) -> None:
    assert messages.decode(messages.encode(payload)) == payload


@pytest.mark.parametrize(
    "payload",
    [
        [0] * 10_000,
        [[] for _ in range(10_000)],
        {str(n): 0 for n in range(10_000)},
        [{"k": [0] * 98} for _ in range(101)],
        [[[0]] for _ in range(4_000)],
    ],
    ids=["numbers", "empty lists", "keys", "records", "chains"],
)
def test_it_refuses_more_than_10_000_nodes(payload: Any) -> None:
    with pytest.raises(errors.InvalidPayload, match="more than 10,000 nodes"):
        messages.encode(payload)


@pytest.mark.parametrize(
    "payload",
    ["x" * (LIMIT - 2), "é" * (LIMIT // 2 - 1), ["x" * (LIMIT - 4)]],
    ids=["ascii", "two-byte letters", "list"],
)
def test_it_takes_exactly_256_kib(payload: Any) -> None:
    assert len(messages.encode(payload)) == LIMIT


@pytest.mark.parametrize(
    "payload",
    ["x" * (LIMIT - 1), "é" * (LIMIT // 2), ["x" * (LIMIT - 3)]],
    ids=["ascii", "two-byte letters", "list"],
)
def test_it_refuses_one_byte_more_than_256_kib(payload: Any) -> None:
    with pytest.raises(errors.PayloadTooLarge, match="262,144 allowed") as refusal:
        messages.encode(payload)

    assert refusal.value.code == "payload_too_large"
    assert re.match(r"payload has [\d,]+ bytes .*; store the data", str(refusal.value))
    assert "send a reference" in str(refusal.value)


def test_the_limits_are_settings(settings: Settings) -> None:
    settings.MESH_PAYLOAD_MAX_BYTES = 10
    settings.MESH_JSON_MAX_DEPTH = 2
    settings.MESH_JSON_MAX_NODES = 3

    assert messages.encode([[1]]) == b"[[1]]"
    with pytest.raises(errors.PayloadTooLarge):
        messages.encode("nine more chars")
    with pytest.raises(errors.InvalidPayload, match="deeper than 2"):
        messages.encode([[[]]])
    with pytest.raises(errors.InvalidPayload, match="more than 3 nodes"):
        messages.encode([1, 2, 3])


def test_it_names_what_was_wrong_with_a_result_as_a_result() -> None:
    with pytest.raises(errors.InvalidPayload, match="result is not JSON"):
        messages.encode_result(object(), 1024)
    with pytest.raises(errors.InvalidPayload, match="^result is not JSON: .*surrogate"):
        messages.encode_result("\ud800", 1024)
    with pytest.raises(errors.InvalidPayload, match="result is nested deeper than 200"):
        messages.encode_result(nested(201, in_list), 1024)
    with pytest.raises(errors.PayloadTooLarge, match="^result has 6 bytes .* the 5 "):
        messages.encode_result("four", 5)


def test_a_result_is_bounded_in_bytes_only() -> None:
    assert messages.encode_result([0] * 20_000, 40_001).count(b"0") == 20_000
    assert messages.encode_result(nested(200, in_list), 401).count(b"[") == 200


@pytest.mark.parametrize(
    "value",
    [
        {"n": 10**30, "k": ["é", None, 1.5, True]},
        nested(800, in_object),
        ["x" * LIMIT] * 2,
        [0] * 20_000,
    ],
    ids=["a large integer", "depth", "bytes", "nodes"],
)
def test_what_is_in_the_mesh_already_is_kept_beyond_the_limits(value: Any) -> None:
    text = messages.encode_kept(value)

    assert json.loads(text) == value
    assert b" " not in text and b"\\" not in text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"n": 10**30, "x": object()}, "payload is not JSON: it holds a object"),
        ({"n": math.nan}, "payload holds nan, which is not JSON"),
        ({("a",): 1}, "payload is not JSON: Dict key must be"),
        ({("a",): 10**30}, "payload is not JSON: "),
        (nested(901, in_list), "payload is nested deeper than 900 levels"),
        (["\ud800"], "payload is not JSON: "),
        (["\ud800", 10**30], "payload is not JSON: "),
        ([10**30, "\ud800"], "payload is not JSON: 'utf-8' codec"),
        ([10**30, {("a",): 1}], "payload is not JSON: keys must be"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_the_same_words(
    value: Any, said: str
) -> None:
    with pytest.raises(errors.InvalidPayload) as refusal:
        messages.encode_kept(value)

    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    "value",
    [{"n": [None, "é", 1.5]}, [10**30, "é"], nested(300, in_object)],
    ids=["ours", "a large integer", "depth"],
)
def test_whatever_is_in_the_mesh_can_be_written_out(value: Any) -> None:
    text = messages.written(value)

    assert json.loads(text) == value
    assert b" " not in text and b"\\" not in text


def test_half_of_a_surrogate_pair_is_written_as_a_question_mark() -> None:
    assert messages.written(["\ud800"]) == b'["?"]'


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[1,", "nul", "NaN", "Infinity", "'a'", '"\\ud800"', "1 2", "\ud800"]
    + ["[" * 100_000, '{"a":' * 100_000, b"\xff", b'"\xff"', b"\xef\xbb\xbf1"],
    ids=ids.plain,
)
def test_a_text_that_is_no_json_keeps_what_it_was(text: str | bytes) -> None:
    with pytest.raises(errors.DecodeError, match="not JSON") as refusal:
        messages.decode(text)

    assert refusal.value.raw == text


def test_a_reader_that_forgives_gets_the_text_itself() -> None:
    assert messages.decode_or_text('{"a":1}') == {"a": 1}
    assert messages.decode_or_text("{broken") == "{broken"


def test_only_ended_states_are_ended() -> None:
    tasks = [messages.Task("id", "demo", None, state=s) for s in messages.STATES]

    ended = {task.state for task in tasks if task.ended}

    assert ended == {"done", "dead", "cancelled", "discarded"}


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_732_287_600_007, "2024-11-22T15:00:00.007Z"),
        (951_782_400_999, "2000-02-29T00:00:00.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(ms: int, text: str) -> None:
    assert messages.iso(ms) == text
    assert messages.iso_ms(text) == ms


def test_no_time_lies_beyond_the_year_9999() -> None:
    assert messages.iso(253_402_300_800_000) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("text", ["", "soon", "2024-13-01T00:00:00Z", None, 5, ["x"]])
def test_a_time_that_somebody_else_wrote_may_be_none(text: Any) -> None:
    assert messages.iso_ms(text) is None


LETTER = {
    "id": "0198c0de-0000-7000-8000-00000000abcd",
    "json": '{"id":"0198c0de-0000-7000-8000-00000000abcd","payload":{"a":1}}',
    "error": '{"type":"ValueError","message":"no"}',
    "fp": "0123456789abcdef",
    "fence": "5-0.1",
    "attempts": '{"attempt":1}\n{"attempt":2}',
    "meta": "e=1732287600000,epoch=2,m=3",
}


def test_a_dead_letter_has_everything_its_entry_holds() -> None:
    letter = letters.parse_letter("demo", "1732287600007-0", LETTER)

    assert (letter.id, letter.payload) == (LETTER["id"], {"a": 1})
    assert (letter.fence, letter.fingerprint) == (LETTER["fence"], LETTER["fp"])
    assert letter.error == {"type": "ValueError", "message": "no"}
    assert letter.attempts == ({"attempt": 1}, {"attempt": 2})
    assert (letter.epoch, letter.options) == (2, "m=3")
    assert letter.enqueued_at == "2024-11-22T15:00:00.000Z"
    assert letter.died_at == "2024-11-22T15:00:00.007Z"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"json": "not json", "error": "not json", "attempts": "not json\n\n[1]"},
        {"json": "[1,2]", "error": "[]", "attempts": "5"},
        {"meta": "e=later,epoch=-1"},
        {"meta": "e=\u00b2,epoch=\u00b2"},
        {"meta": "e=" + "9" * 30},
        {"meta": ",,=,e"},
    ],
    ids=ids.plain,
)
def test_a_letter_that_somebody_else_wrote_is_shown_too(broken: dict[str, str]) -> None:
    letter = letters.parse_letter("demo", "1732287600007-0", LETTER | broken)

    assert letter.raw == LETTER | broken
    assert isinstance(letter.error, dict)
    assert all(isinstance(row, dict) for row in letter.attempts)


def test_a_letter_without_any_field_is_one_of_nothing() -> None:
    letter = letters.parse_letter("demo", "1732287600007-0", {})

    assert (letter.id, letter.payload, letter.fingerprint) == ("", "", "")
    assert letter.error == {"type": "Unknown", "message": ""}
    assert (letter.fence, letter.options, letter.enqueued_at) == ("", "", None)
    assert (letter.attempts, letter.epoch, letter.replays) == ((), 0, ())


def test_a_letter_shows_payload_and_error_as_they_were_written_by_hand() -> None:
    fields = {"id": "x", "json": "[1,2]", "error": "no ink"}

    letter = letters.parse_letter("demo", "1-0", fields)

    assert letter.payload == [1, 2]
    assert letter.error == {"type": "Unknown", "message": "no ink"}


def test_a_letter_of_broken_json_shows_the_text() -> None:
    letter = letters.parse_letter("demo", "1-0", {"id": "x", "json": "{broken"})

    assert letter.payload == "{broken"


@pytest.mark.parametrize(
    ("attempts", "most"),
    [
        ([], 0),
        ([{"attempt": 5, "epoch": 0}], 0),
        ([{"attempt": n, "epoch": 1} for n in (1, 3, 2)], 3),
        ([{"epoch": 1}, {"attempt": "7", "epoch": 1}], 0),  # somebody else's
    ],
)
def test_only_the_attempts_since_a_replay_count(
    attempts: list[dict[str, Any]], most: int
) -> None:
    assert letters.executions(tuple(attempts), 1) == most


# --- rows and sameness


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        ([1, 2], [2, 1], False),
        (True, 1, False),
        (1, 1.0, False),
        ("1", 1, False),
        (None, None, True),
        ({1, 2}, {2, 1}, True),
        ({1, 2}, {1}, False),
        ([1], {1}, False),
    ],
)
def test_values_are_the_same_if_their_json_is(
    one: Any, other: Any, equal: bool
) -> None:
    assert messages.same(one, other) is equal
    assert messages.same(other, one) is equal


@pytest.mark.parametrize(
    ("text", "row"),
    [('{"id": "x"}', {"id": "x"}), ("[1]", {}), ("no json", {}), ("", {}), ("7", {})],
)
def test_a_row_by_hand_may_be_none(text: str, row: dict[str, Any]) -> None:
    assert messages.parse_row(text) == row


def test_a_row_tells_of_its_task_in_the_documented_members() -> None:
    facts: dict[str, Any] = {
        **{"agent": "mill#1", "attempt": 2, "fence": "17-1.3"},
        **{"enqueued_ms": 0, "started_ms": 1_500, "finished_ms": 86_400_000},
    }
    text = endings.result_row("id-1", "t", '{"n":1}', b"[2]", **facts, own={})
    own = endings.result_row("id-1", "t", "1", b"2", **facts, own={"timeout_s": 1.5})

    assert messages.parse_row(text.decode()) == {
        **{"id": "id-1", "topic": "t", "state": "done", "task": {"n": 1}},
        **{"result": [2], "agent": "mill#1", "attempt": 2, "fence": "17-1.3"},
        "enqueued_at": "1970-01-01T00:00:00.000Z",
        "started_at": "1970-01-01T00:00:01.500Z",
        "finished_at": "1970-01-02T00:00:00.000Z",
    }
    assert messages.parse_row(own.decode())["timeout_s"] == 1.5


def test_json_that_somebody_else_checked_is_only_measured(settings: Any) -> None:
    settings.MESH_PAYLOAD_MAX_BYTES = 4

    assert messages.check_size(b"1234") == b"1234"
    with pytest.raises(errors.PayloadTooLarge, match="payload has 5 bytes .* the 4 "):
        messages.check_size(b"12345")
