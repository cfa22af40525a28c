"""Bodies from hell: refused with the right status, and nothing is written."""

from __future__ import annotations

import json
import time
import zlib
from typing import Any

import orjson
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import bus
from bus.api import jsontext
from bus.api.problems import Problem
from tests.support.api import api, keyspace, problem

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]


def body(task: str) -> bytes:
    """An enqueue whose task is this JSON text."""
    return f'{{"topic": "bodies", "task": {task}}}'.encode()


def dumped(value: Any) -> bytes:
    """JSON as a careless client writes it: NaN, huge integers, halves of pairs."""
    return json.dumps(value, ensure_ascii=len(str(value)) % 2 == 0).encode(
        errors="surrogatepass"
    )


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(raw=st.binary() | st.text().map(str.encode) | VALUES.map(dumped))
def test_whatever_comes_is_read_exactly_or_refused(raw: bytes) -> None:
    try:
        value = jsontext.document(raw, "application/json", limit=2**20)
    except Problem as problem_:
        assert problem_.code in ("unreadable", "invalid_payload")
    else:
        # Another reader, which rounds and forgets nothing either, sees the same.
        assert orjson.loads(orjson.dumps(value)) == value == json.loads(raw)


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "cut": b"{",
    "two values": body("1") + b"{}",
    "utf-16": body("1").decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + body("1"),
    "a byte that is no utf-8": body('"\\"') + b'\xff"}',
    "an encoded surrogate": body('"X"').replace(b"X", b"\xed\xa0\x80"),
    "100,000 brackets": b"[" * 100_000,
    "5,000 objects": (b'{"a":' * 5_000) + b"1" + b"}" * 5_000,
    "101 lists": body(nested(101)),
    "NaN": body("NaN"),
    "Infinity": body("Infinity"),
    "-Infinity": body("-Infinity"),
    "1e400": body("1e400"),
    "-1e400": body("-1e400"),
    "5,000 digits": body("1" * 5_000),
    "4,299 digits": body("1" * 4_299),
    "half a pair": body('"\\ud800"'),
    "a pair the wrong way": body('"\\udfff\\ud800"'),
    "half a pair as key": body('{"\\ud800": 1}'),
    "NUL": body('"\\u0000"'),
    "NUL as key": body('{"a\\u0000": 1}'),
    "NUL in the topic": b'{"topic": "a\\u0000", "task": 1}',
    "a control character": body('"\x01"'),
    "the same key twice": body('{"a": 1, "a": 2}'),
    "the task twice": b'{"topic": "bodies", "task": 1, "task": 2}',
    "a trailing comma": body("[1,]"),
    "single quotes": b"{'topic': 'bodies', 'task': 1}",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_400(redis_client: redis.Redis, name: str) -> None:
    response = api().raw("enqueue", UNREADABLE[name])

    problem(response, 400, "unreadable")
    assert keyspace(redis_client) == {}


def test_who_sends_a_byte_order_mark_is_told_of_it() -> None:
    told = problem(
        api().raw("enqueue", UNREADABLE["a byte order mark"]), 400, "unreadable"
    )

    assert told["detail"] == "the body begins with a byte order mark; send it without"


@pytest.mark.parametrize("name", ["100,000 brackets", "5,000 objects"])
def test_depth_costs_no_time(name: str) -> None:
    began = time.thread_time()  # of this thread alone, however busy the machine is

    with pytest.raises(Problem):
        jsontext.document(UNREADABLE[name], "application/json", limit=2**20)

    assert time.thread_time() - began < 0.05


OUTSIDE: dict[str, bytes] = {
    "null": b"null",
    "a number": b"1",
    "a list": b"[]",
    "nothing in it": b"{}",
    "a long key": body(json.dumps({"k" * 257: 1})),
    "depth 33": body(nested(33)),
    "10,001 nodes": body(json.dumps([0] * 10_000)),
    "2^53": body(str(2**53)),
    "2^63": body(str(2**63)),
    "-2^63-1": body(str(-(2**63) - 1)),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_outside_the_limits_is_422(
    redis_client: redis.Redis, name: str
) -> None:
    response = api().raw("enqueue", OUTSIDE[name])

    kind = "invalid" if len(OUTSIDE[name]) < 5 else "invalid_payload"
    problem(response, 422, kind)
    assert keyspace(redis_client) == {}


AT_THE_EDGE: dict[str, Any] = {
    "depth 32": json.loads(nested(32)),
    "10,000 nodes": [0] * 9_999,
    "a key of 256": {"k" * 256: 1},
    "2^53-1": 2**53 - 1,
    "-(2^53-1)": -(2**53 - 1),
    "prototypes": {"__proto__": {"x": 1}, "constructor": None},
    "256 KiB": "x" * (256 * 1024 - 2),
    "escapes": "\u001f\u2028\U0001f408\\u0000 and \\ud800 as text",
}


@pytest.mark.parametrize("name", AT_THE_EDGE)
def test_what_is_just_inside_arrives_as_it_was_sent(
    redis_client: redis.Redis, name: str
) -> None:
    response = api().raw("enqueue", body(json.dumps(AT_THE_EDGE[name])))

    assert response.status_code == 201, response.content[:300]
    assert bus.get_task(response.json()["id"]).payload == AT_THE_EDGE[name]


def test_one_byte_too_many_is_413(redis_client: redis.Redis) -> None:
    task = json.dumps("x" * (256 * 1024 - 1))

    problem(api().raw("enqueue", body(task)), 413, "payload_too_large")

    assert keyspace(redis_client) == {}


@pytest.mark.parametrize(
    ("path", "limit"), [("enqueue", 2**20), ("enqueue/batch", 8 * 2**20)]
)
def test_a_body_beyond_its_limit_is_413(
    redis_client: redis.Redis, path: str, limit: int
) -> None:
    sent = b"[" + b" " * (limit - 1) + b"]"

    problem(api().raw(path, sent), 413, "body_too_large")

    assert keyspace(redis_client) == {}


def test_a_batch_may_be_larger_than_one_task(redis_client: redis.Redis) -> None:
    tasks = [{"topic": "bodies", "task": "x" * 250_000} for _ in range(30)]

    response = api().post("enqueue/batch", {"tasks": tasks})

    assert {row["status"] for row in response.json()["results"]} == {201}


BOMB = zlib.compress(b'{"topic":"bodies","task":"' + b"x" * 2**23 + b'"}', 9)
CHARSETS = [
    *("zlib", "bz2", "hex", "rot13", "undefined", "idna", "utf-7", "unicode_escape"),
    *("latin-1", "utf-16", "nonsense", '"zlib"'),
]


@pytest.mark.parametrize("charset", CHARSETS)
def test_a_codec_of_the_client_is_not_used(
    redis_client: redis.Redis, charset: str
) -> None:
    for sent in (BOMB, b"\x00garbage", body("1")):
        kind = f"application/json; charset={charset}"
        problem(api().raw("enqueue", sent, kind), 415, "unsupported_media_type")

    assert keyspace(redis_client) == {}


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"'])
def test_utf_8_may_be_named(redis_client: redis.Redis, charset: str) -> None:
    kind = f"Application/JSON ; Charset={charset}"

    assert api().raw("enqueue", body("1"), kind).status_code == 201


def test_a_compressed_body_is_415(redis_client: redis.Redis) -> None:
    response = api().raw("enqueue", BOMB, Content_Encoding="gzip")

    problem(response, 415, "unsupported_media_type")
    assert keyspace(redis_client) == {}


TYPES = [
    *("text/plain", "application/x-www-form-urlencoded", "text/json", "*/*"),
    *("multipart/form-data; boundary=x", "application/jsonx", "x" * 5_000, ""),
]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("path", ["enqueue", "agents", "enqueue/batch"])
def test_another_media_type_is_415(
    redis_client: redis.Redis, kind: str, path: str
) -> None:
    response = api("admin").raw(path, body("1"), kind)

    problem(response, 415, "unsupported_media_type")
    assert keyspace(redis_client) == {}


@pytest.mark.parametrize("depth", [10, 40])
def test_every_item_of_a_batch_is_bounded_by_itself(
    redis_client: redis.Redis, depth: int
) -> None:
    tasks = [
        {"topic": "bodies", "task": json.loads(nested(depth))},
        {"topic": "bodies", "task": [0] * 9_000},
        {"topic": "bodies", "task": [0] * 9_000},
    ]

    rows = api().post("enqueue/batch", {"tasks": tasks}).json()["results"]

    assert [row["status"] for row in rows] == [201 if depth < 33 else 422, 201, 201]


def test_of_a_batch_only_the_tasks_outside_the_limits_are_refused(
    redis_client: redis.Redis,
) -> None:
    outside: list[Any] = [{"n": 2**53}, [{"k" * 257: 1}], -(2**64)]
    payloads = ["x", *outside, {"n": 2**53 - 1}]
    tasks = [{"topic": "bodies", "task": payload} for payload in payloads]

    rows = api().post("enqueue/batch", {"tasks": tasks}).json()["results"]

    assert [row["status"] for row in rows] == [201, 422, 422, 422, 201]
    assert {row["error"]["code"] for row in rows[1:4]} == {"invalid_payload"}
    assert rows[1]["error"]["detail"].startswith("the task has the integer")
    assert [bus.get_task(row["id"]).payload for row in (rows[0], rows[4])] == [
        payloads[0],
        payloads[4],
    ]
