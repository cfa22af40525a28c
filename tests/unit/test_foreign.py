"""An entry that no agent can read says what its writer did wrong."""

from __future__ import annotations

import pytest

from bus import errors, foreign

OURS = "0198c0de-0000-7000-8000-00000000abcd"
THEIRS = "0198c0de-0000-5000-8000-00000000abcd"


@pytest.mark.parametrize(
    ("text", "meta", "sentence"),
    [
        ("1", "hello", "field `meta` holds 'hello', which the mesh did not write"),
        ("", "", "no field `json`, or an empty one"),
        ("{", "", "field `json` is not JSON: "),
        (str(2**64), "", "an integer beyond 64 bits"),
    ],
    ids=["meta", "nothing", "no JSON", "rounded"],
)
def test_what_nobody_can_read_is_malformed(text: str, meta: str, sentence: str) -> None:
    with pytest.raises(errors.Malformed, match=sentence) as caught:
        foreign.payload_of(THEIRS, text, meta)

    assert caught.value.code == "malformed"
    assert caught.value.raw == (meta or text)


@pytest.mark.parametrize("meta", ["", "e=1", "e=1,more"])
@pytest.mark.parametrize("task_id", [OURS, THEIRS])
def test_what_can_be_read_is_its_payload(task_id: str, meta: str) -> None:
    assert foreign.payload_of(task_id, '{"n": 1}', meta) == {"n": 1}
