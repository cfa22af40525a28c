"""JSON of others: read exactly, or refused; what orjson has rounded is noticed."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import errors, exact

ROUNDED = [
    str(2**64),
    str(-(2**63) - 1),
    "1" * 300,
    f'{{"a": [true, {{"b": {2**64}}}]}}',
    f'["\\"", {2**64}]',
    f'["1.5", {2**64}, 1.5]',
    "[" * 900 + str(2**64) + "]" * 900,
]
WHOLE = [
    str(2**64 - 1),
    str(-(2**63)),
    f'"{2**64}"',
    f'["\\"{2**64}\\\\", 1.5]',
    f'{{"{2**64}": 1.5}}',
    f"[{2**64}.5, 1.{2**64}, {2**64}e1, 1E-{2**4}]",
    "[0.1, 1e300, -0.0]",
    "{}",
    "[" * 900 + "]" * 900,
]


@pytest.mark.parametrize("text", ROUNDED)
def test_a_rounded_integer_is_noticed_wherever_it_stands(text: str) -> None:
    assert exact.is_rounded(text, orjson.loads(text))


@pytest.mark.parametrize("text", WHOLE)
def test_what_is_not_rounded_is_not_taken_for_it(text: str) -> None:
    assert not exact.is_rounded(text, orjson.loads(text))


JSON = st.recursive(
    st.none() | st.integers() | st.integers(2**62, 2**66) | st.floats(allow_nan=False)
    | st.text() | st.integers(2**62, 2**66).map(str),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(value=JSON)
def test_it_is_rounded_where_python_reads_another_number(value: object) -> None:
    text = json.dumps(value).replace("Infinity", "1")

    mine = orjson.loads(text)

    # Equal numbers of another kind are another number as well: 2.0 ** 64 is rounded.
    same = json.dumps(json.loads(text)) == json.dumps(mine)
    assert exact.is_rounded(text, mine) != same


@pytest.mark.parametrize("text", [str(2**53), '[{"k": -9007199254740992}]'])
def test_an_integer_is_bounded_unless_it_is_read_otherwise(text: str) -> None:
    with pytest.raises(errors.InvalidPayload, match="^the body has the integer"):
        exact.read(text, "the body")

    value = exact.read(text, "the body", bounded=False)

    assert value == json.loads(text)
    with pytest.raises(errors.InvalidPayload, match="^the task has the integer"):
        exact.check(value, "the task")


def test_a_long_key_is_found_in_what_was_read_unbounded() -> None:
    value = exact.read(json.dumps([{"a": {"k" * 257: 1}}]), "it", bounded=False)

    with pytest.raises(errors.InvalidPayload, match="^the task has a key of more than"):
        exact.check(value, "the task")
    exact.check([{"k" * 256: [2**53 - 1, None, "x", 1.5, True]}], "the task")


class Name(str):
    """A key that counts how often any is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str(self) == other


def test_a_key_that_is_there_twice_is_found_in_one_pass() -> None:
    """Each key was compared with each: a body of 64 KiB took a second."""
    names = [*(Name(n) for n in range(2_000)), Name("7")]

    with pytest.raises(errors.DecodeError, match="the key '7' twice"):
        exact._object([(name, None) for name in names])

    assert Name.compared < 10 * len(names)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "NaN", "1e400", "1" * 41, '"\\u0000"', "", "[1,]"]
)
def test_what_has_no_one_meaning_is_refused_also_unbounded(text: str) -> None:
    with pytest.raises(errors.DecodeError, match="^it "):
        exact.read(text, "it", bounded=False)
