"""The contract of the hot calls: whichever door they come through, the answer is one.

Each row is sent to the views alone, then with the express lane in front of them. Both
are held to the row, and to each other in every byte but ids and times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from tests.contract.conftest import Enter
from tests.support.api import ROOT
from tests.support.desk import Desk
from tests.support.doors import Door, Reply

TOPIC = "two-doors"
OWN = "0198c0de-0000-7000-8000-00000000abcd"
AGENT = "agent-1"


def task(**more: Any) -> bytes:
    return json.dumps({"topic": TOPIC, "task": {"n": 1}, **more}).encode()


def text(value: str) -> bytes:
    """A task whose payload is this JSON text."""
    return f'{{"topic": "{TOPIC}", "task": {value}}}'.encode()


def many(*tasks: Any) -> bytes:
    return json.dumps({"tasks": list(tasks)}).encode()


@dataclass
class Row:
    """A request and what is to come of it; `lane` if the lane is to answer itself."""

    name: str
    status: int
    body: bytes = field(default_factory=task)
    code: str = ""
    path: str = "enqueue"
    headers: list[tuple[str, str | bytes]] = field(default_factory=list)
    method: str = "POST"
    token: str | None = "operator"
    content_type: str | None = "application/json"
    chunked: bool = False
    lane: bool = True
    before: Callable[[Door], None] | None = None
    says: dict[str, Any] = field(default_factory=dict)
    told: dict[str, str | None] = field(default_factory=dict)  # headers
    settings: dict[str, Any] = field(default_factory=dict)

    def ask(self, door: Door) -> Reply:
        if self.before is not None:
            self.before(door)
        door.in_the_lane = 0
        return door.ask(
            self.path,
            self.body,
            self.headers,
            method=self.method,
            token=self.token,
            content_type=self.content_type,
            chunked=self.chunked,
        )


def sent_before(value: Any, **more: Any) -> Callable[[Door], None]:
    """The topic has this task already."""

    def before(door: Door) -> None:
        bus.enqueue_task(TOPIC, value, **more)

    return before


def full(door: Door) -> None:
    bus.enqueue_task(TOPIC, 1)
    bus.set_limits(TOPIC, backlog_max=1)


def keyed(door: Door) -> None:
    assert door.ask("enqueue", task(), [("Idempotency-Key", "k-1")]).status == 201


def done(door: Door) -> None:
    bus.enqueue_task(TOPIC, {"n": 1}, task_id=OWN)
    desk = Desk(TOPIC)
    desk.complete(desk.one())


def dead(door: Door) -> None:
    bus.enqueue_task(TOPIC, {"n": 1}, task_id=OWN)
    desk = Desk(TOPIC)
    desk.fail(desk.one(), final=True)


def asked(times: int) -> Callable[[Door], None]:
    """So many calls of the same token were answered before."""

    def before(door: Door) -> None:
        for _ in range(times):
            assert door.ask("enqueue", task()).status == 201

    return before


def registered(door: Door) -> None:
    bus.register_agent(AGENT, "http")


def memory_full(door: Door) -> None:
    from bus import connection

    connection.get_redis().config_set("maxmemory", 1)


def key_torn(door: Door) -> None:
    from bus import connection, keys

    connection.get_redis().set(keys.named("tasks", TOPIC), "not ours")


def known_topics(door: Door) -> None:
    bus.enqueue_task("another", 1)


KEY = "Idempotency-Key"
BEAT = f"agents/{AGENT}/heartbeat"
BATCH = "enqueue/batch"
JSON = "application/json"
DOCUMENT = "application/problem+json"

GOOD = [
    Row("a task", 201, says={"topic": TOPIC, "state": "waiting"}),
    Row("with an id", 201, task(id=OWN), says={"id": OWN}),
    Row("id in capitals", 201, task(id=OWN.upper()), says={"id": OWN}),
    Row("id without dashes", 201, task(id=OWN.replace("-", "")), says={"id": OWN}),
    Row("id in braces", 201, task(id=f"{{{OWN}}}"), says={"id": OWN}),
    Row("delayed", 201, task(delay_s=60), says={"state": "delayed"}),
    Row("at a time", 201, task(run_at="2099-01-01T00:00:00Z")),
    Row("a time long ago", 201, task(run_at="2001-01-01T00:00:00+02:00")),
    Row("with options", 201, task(max_attempts=3, timeout_s=1.5, maxlen=10)),
    Row("2.0 is 2", 201, task(max_attempts=2.0)),
    Row("in memory", 201, task(durability="memory")),
    Row("null", 201, text("null")),
    Row("letters of all kinds", 201, text('"kätzchen 🐈 \\u00e9"')),
    Row("prototypes", 201, text('{"__proto__": {"x": 1}}')),
    Row("2^53-1", 201, text("9007199254740991")),
    Row("as deep as may be", 201, text("[" * 31 + "]" * 31)),
    Row("sent again", 200, task(id=OWN), before=sent_before({"n": 1}, task_id=OWN)),
    Row("sent again when done", 200, task(id=OWN), before=done, says={"state": "done"}),
    Row("sent again when dead", 200, task(id=OWN), before=dead, says={"state": "dead"}),
    Row("a key", 201, headers=[(KEY, "k-1")]),
    Row("a key again", 200, headers=[(KEY, "k-1")], before=keyed),
    Row("a key again, with spaces", 200, headers=[(KEY, "\t k-1 ")], before=keyed),
    Row("a key with a space in it", 201, headers=[(KEY, "k 1")]),
    Row("a key of 255", 201, headers=[(KEY, "k" * 255)]),
    Row("charset", 201, content_type="Application/JSON; charset=UTF-8"),
    Row("identity", 201, headers=[("Content-Encoding", "identity")]),
    Row("in chunks", 201, chunked=True),
    Row("other letters of a name", 201, headers=[("ACCEPT", "text/html")]),
    Row("expecting to go on", 201, headers=[("Expect", "100-continue")], lane=True),
    Row("its own request id", 201, headers=[("X-Request-ID", "mine-1")]),
    Row("a request id of lines", 201, headers=[("X-Request-ID", "a b")]),
    Row("a method to override", 201, headers=[("X-HTTP-Method-Override", "DELETE")]),
    Row("another's address", 201, headers=[("X-Forwarded-For", "8.8.8.8")]),
    Row("a topic that is ours", 201, task(topic="only-this"), token="bound"),
    Row("a small batch", 200, many(json.loads(task())), path=BATCH),
    Row("a beat", 200, b"", path=BEAT, token="agent", before=registered),
    Row(
        "a beat with its time",
        200,
        b'{"ttl_seconds": 30}',
        path=BEAT,
        token="agent",
        before=registered,
        says={"agent_id": AGENT, "expires_in_s": 30, "drain": False},
    ),
    Row("a beat in chunks", 200, b"{}", path=BEAT, token="agent", before=registered,
        chunked=True),
]  # fmt: skip

BODIES = {
    "half": (400, "unreadable", b"{"),
    "blank": (400, "unreadable", b"  \n"),
    "twice": (400, "unreadable", text("1")[:-1] + b', "task": 2}'),
    "twice deep": (400, "unreadable", text('{"a": 1, "a": 2}')),
    "NaN": (400, "unreadable", text("NaN")),
    "-Infinity": (400, "unreadable", text("[-Infinity]")),
    "1e400": (400, "unreadable", text("1e400")),
    "many digits": (400, "unreadable", text("9" * 5_000)),
    "half a pair": (400, "unreadable", text('"\\ud800"')),
    "half a pair as a key": (400, "unreadable", text('{"\\udfff": 1}')),
    "NUL": (400, "unreadable", text('"\\u0000"')),
    "a BOM": (400, "unreadable", b"\xef\xbb\xbf" + task()),
    "UTF-16": (400, "unreadable", task().decode().encode("utf-16")),
    "no UTF-8": (400, "unreadable", text('"\xe9"').decode().encode("latin-1")),
    "depth 30,000": (400, "unreadable", text("[" * 30_000)),
    "depth 101": (400, "unreadable", text("[" * 101 + "]" * 101)),
    "depth 33": (422, "invalid_payload", text("[" * 33 + "]" * 33)),
    "10,001 nodes": (422, "invalid_payload", text("[" + "1," * 10_000 + "1]")),
    "2^53": (422, "invalid_payload", text("9007199254740992")),
    "a long key": (422, "invalid_payload", text(f'{{"{"k" * 300}": 1}}')),
    "a list": (422, "invalid", b"[]"),
    "nothing in it": (422, "invalid", b"{}"),
    "unknown fields": (422, "invalid", task(state="done", sid="1-1", **{"a/b~c": 1})),
    "a number for a topic": (422, "invalid", task(topic=5)),
    "wrong types": (422, "invalid", task(delay_s="5", max_attempts=True)),
    "both times": (422, "invalid_option", task(delay_s=1, run_at="2099-01-01T00:00Z")),
    "a negative delay": (422, "invalid_option", task(delay_s=-1)),
    "no attempts": (422, "invalid_option", task(max_attempts=0)),
    "maxlen 0": (422, "invalid_option", task(maxlen=0)),
    "a time without offset": (422, "invalid", task(run_at="2099-01-01T00:00:00")),
    "braces in a topic": (422, "invalid_name", task(topic="a}{b")),
    "a topic of 65": (422, "invalid_name", task(topic="a" * 65)),
    "a topic with a line": (422, "invalid_name", task(topic="a\n")),
    "full width": (422, "invalid_name", task(topic="Ａ")),
    "an id that is none": (422, "invalid_name", task(id="*")),
    "an odd level": (422, "invalid_option", task(durability="eventually")),
    "a level too high": (422, "invalid_option", task(durability="replicated:3")),
    "odd level, odd topic": (422, "invalid_option", task(durability="x", topic="a}")),
}  # fmt: skip
BAD = [Row(name, status, body, code) for name, (status, code, body) in BODIES.items()]

REFUSED = [
    Row("no body", 400, b"", "unreadable"),
    Row("no body in chunks", 400, b"", "unreadable", chunked=True),
    Row("a conflict", 409, task(id=OWN, task=2), "task_conflict",
        before=sent_before({"n": 1}, task_id=OWN)),
    Row("a conflict with one done", 409, task(id=OWN, task=2), "task_conflict",
        before=done),
    Row("a key's conflict", 409, task(task=2), "task_conflict", headers=[(KEY, "k-1")],
        before=keyed),
    Row("a key and an id", 422, task(id=OWN), "invalid", headers=[(KEY, "k-1")]),
    Row("a key of 256", 422, code="invalid_option", headers=[(KEY, "k" * 256)]),
    Row("an empty key", 422, code="invalid_option", headers=[(KEY, "")]),
    Row("a key in bytes", 422, code="invalid_option", headers=[(KEY, b"\x80\x81")]),
    Row("a key of spaces", 422, code="invalid_option", headers=[(KEY, " \t ")]),
    Row("two keys", 422, code="invalid_option", headers=[(KEY, "a"), (KEY, "b")],
        lane=False),
    Row("one key, sent twice", 422, code="invalid_option", lane=False,
        headers=[(KEY, "a"), (KEY, "a")]),
    Row("text", 415, code="unsupported_media_type", content_type="text/plain"),
    Row("a form", 415, b"topic=a", "unsupported_media_type",
        content_type="application/x-www-form-urlencoded"),
    Row("no type", 415, code="unsupported_media_type", content_type=None),
    Row("zlib", 415, code="unsupported_media_type",
        content_type=f"{JSON}; charset=zlib"),
    Row("gzip", 415, code="unsupported_media_type",
        headers=[("Content-Encoding", "gzip")]),
    Row("too large", 413, b" " * 2_000_000, "body_too_large", lane=False),
    Row("too large for a task", 413, text(f'"{"x" * 300_000}"'), "payload_too_large",
        lane=False),
    Row("200 headers", 431, code="headers_too_large", lane=False,
        headers=[(f"X-{n}", "y") for n in range(200)]),
    Row("a parameter", 422, code="invalid", path="enqueue?x=1", lane=False),
    Row("a slash behind", 404, code="not_found", path="enqueue/", lane=False),
    Row("another host", 400, code="bad_request", headers=[("Host", "evil.example")],
        lane=False),
    Row("no length", 400, code="", headers=[("Content-Length", "x")], lane=False),
    Row("a full topic", 429, code="topic_full", before=full, told={"retry-after": "*"}),
    Row("a full topic for this one", 429, task(maxlen=1), "topic_full",
        before=sent_before(1), told={"retry-after": "*"}),
    Row("too often", 429, code="rate_limited", before=asked(2),
        settings={"MESH_API_HOT_CALLS_PER_MINUTE": 2}, told={"retry-after": "*"}),
    Row("too often, and no JSON", 429, b"{", "rate_limited", before=asked(2),
        settings={"MESH_API_HOT_CALLS_PER_MINUTE": 2}, told={"retry-after": "*"}),
    Row("too many topics", 422, code="too_many_topics", before=known_topics,
        settings={"MESH_TOPICS_MAX": 1}),
    Row("no memory", 503, code="memory_full", before=memory_full,
        told={"retry-after": "1"}, says={"outcome": "not_written"}),
    Row("a key of another type", 503, code="damaged_key", before=key_torn,
        told={"retry-after": "1"}, says={"outcome": "not_written"}),
]  # fmt: skip

NOBODY = {"www-authenticate": "Bearer"}
WHO = [
    Row("nobody", 401, code="not_authenticated", token=None, lane=False, told=NOBODY),
    Row("a wrong token", 401, code="invalid_token", token="0" * 64, lane=False,
        told=NOBODY),
    Row("a revoked token", 401, code="invalid_token", token="revoked", lane=False,
        told=NOBODY),
    Row("an empty token", 401, code="invalid_token", token="", lane=False),
    Row("two words", 401, code="invalid_token", token="a b", lane=False),
    Row("bytes", 401, code="invalid_token", token=None, lane=False,
        headers=[("Authorization", b"Bearer \xff\xfe")]),
    Row("another scheme", 401, code="not_authenticated", token=None, lane=False,
        headers=[("Authorization", "Token abc")]),
    Row("a long token", 401, code="invalid_token", token="a" * 10_000, lane=False),
    Row("a viewer", 403, code="permission_denied", token="viewer"),
    Row("a viewer, and no JSON", 403, b"{", "permission_denied", token="viewer"),
    Row("an agent", 403, code="permission_denied", token="agent"),
    Row("another topic", 403, code="topic_not_allowed", token="bound"),
    Row("a session's cookie", 201, headers=[("Cookie", "a=b")], lane=False),
    Row("a batch of a viewer", 403, many(1), "permission_denied", path=BATCH,
        token="viewer"),
    Row("a beat of an operator", 403, b"", "permission_denied", path=BEAT),
]  # fmt: skip

METHODS = [
    Row("HEAD", 405, b"", method="HEAD", lane=False, told={"allow": "POST, OPTIONS"}),
    Row("GET", 405, b"", "method_not_allowed", method="GET", lane=False,
        told={"allow": "POST, OPTIONS"}),
    Row("PUT", 405, code="method_not_allowed", method="PUT", lane=False),
    Row("OPTIONS", 204, b"", method="OPTIONS", lane=False),
]  # fmt: skip

MIXED = many(
    json.loads(task()),
    json.loads(task(id=OWN)),
    json.loads(task(id=OWN)),
    json.loads(task(id=OWN, task=2)),
    json.loads(task(topic="a}{b")),
    json.loads(task(topic="another-one", delay_s=5)),
    json.loads(task(durability="memory")),
    json.loads(task(durability="replicated:9")),
    json.loads(task(durability="??")),
    json.loads(task(state="x")),
    json.loads(task(id="*")),
    {"topic": TOPIC},
    7,
    None,
)
# The body is read anew, and each task looked into.
OUTSIDE = many(
    json.loads(task()),
    json.loads(task(task={"n": [2**53]})),
    json.loads(task(task=[{"k" * 257: 1}])),
    json.loads(task(delay_s=2**60)),
    2**64,
    json.loads(task(task=2**53 - 1)),
)
OTHERS = [
    Row("a mixed batch", 200, MIXED, path=BATCH),
    Row("a batch with a key", 200, MIXED, path=BATCH, headers=[(KEY, "b-1")]),
    Row("a batch with tasks outside the limits", 200, OUTSIDE, path=BATCH),
    Row("a batch outside the limits", 422, b'{"tasks": [1], "x": 9007199254740993}',
        "invalid", path=BATCH),
    Row("a batch that is a large number", 422, b"9007199254740993", "invalid",
        path=BATCH),
    Row("a batch with a long key", 422, MIXED, "invalid_option", path=BATCH,
        headers=[(KEY, "b" * 241)]),
    Row("a batch for a full topic", 200, many(json.loads(task())), path=BATCH,
        before=full),
    Row("an empty batch", 422, many(), "invalid", path=BATCH),
    Row("a batch of too many", 422, many(*[1] * 1_001), "invalid", path=BATCH),
    Row("a batch that is no list", 422, b'{"tasks": {}}', "invalid", path=BATCH),
    Row("a batch with more", 422, b'{"tasks": [1], "x": 1}', "invalid", path=BATCH),
    Row("a batch of a token bound", 200, MIXED, path=BATCH, token="bound"),
    Row("a batch too large for the lane", 200,
        many(*[json.loads(task(task="x" * 1_000))] * 100), path=BATCH, lane=False),
    Row("a batch without memory", 200, many(json.loads(task())), path=BATCH,
        before=memory_full),
    Row("a beat of one unknown", 404, b"", "agent_not_found", path=BEAT, token="agent"),
    Row("a beat of no name", 404, b"", "agent_not_found", token="agent",
        path="agents/a%20b/heartbeat"),
    Row("a beat with a slash in its name", 404, b"", "not_found", token="agent",
        path="agents/a%2Fb/heartbeat", lane=False),
    Row("a beat of odd letters", 404, b"", "agent_not_found", token="agent",
        path="agents/%C3%A9%00/heartbeat"),
    Row("a beat too long", 422, b'{"ttl_seconds": 1e9}', "invalid_option", path=BEAT,
        token="agent", before=registered),
    Row("a beat with text", 422, b'{"ttl_seconds": "1"}', "invalid", path=BEAT,
        token="agent", before=registered),
    Row("a beat with more", 422, b'{"x": 1}', "invalid", path=BEAT, token="agent",
        before=registered),
    Row("a beat as text", 415, b"{}", "unsupported_media_type", path=BEAT,
        token="agent", content_type="text/plain"),
    Row("a beat of half a body", 400, b"{", "unreadable", path=BEAT, token="agent"),
]  # fmt: skip
CLAIM = f"topics/{TOPIC}/claim"
FENCE = "1700000000000-0.0"


def claimed(**more: Any) -> bytes:
    return json.dumps({"agent_id": AGENT, **more}).encode()


def ends(*more: dict[str, Any], fence: str = FENCE) -> bytes:
    """Deliveries that nobody holds, or so it seems."""
    head = {"topic": TOPIC, "id": OWN, "fence": fence}
    return json.dumps({"deliveries": [{**head, **each} for each in more]}).encode()


def waiting(door: Door) -> None:
    registered(door)
    bus.enqueue_task(TOPIC, {"n": 1}, task_id=OWN)


def lent(door: Door) -> None:
    """The agent took the task under this claim before."""
    waiting(door)
    reply = door.ask(CLAIM, claimed(claim_id="c-1"), token="agent")
    assert reply.status == 200, reply.body


def lent_within(door: Door) -> None:
    """The agent serves a topic within the reach of a bound token."""
    registered(door)
    claim = door.ask("topics/only-that/claim", claimed(), token="agent")
    assert claim.status == 200, claim.body


def paused(door: Door) -> None:
    waiting(door)
    bus.pause(TOPIC)


def lease(name: str, status: int, body: bytes, code: str = "", **more: Any) -> Row:
    """A row of an agent that takes tasks or ends them."""
    return Row(name, status, body, code, token=more.pop("token", "agent"), **more)


NO_ERROR = {"error": {"type": "E", "message": "no"}}
LEASES = [
    lease("a claim", 200, claimed(), path=CLAIM, before=waiting),
    lease("a claim again", 200, claimed(claim_id="c-1"), path=CLAIM, before=lent),
    lease("a claim of nothing", 200, claimed(), path=CLAIM, before=registered,
        says={"deliveries": [], "drain": False}),
    lease("a claim that waits", 200, claimed(wait_s=0.2), path=CLAIM,
        before=registered, says={"deliveries": []}),
    lease("a claim while paused", 200, claimed(), path=CLAIM, before=paused,
        says={"deliveries": []}),
    lease("a claim of one unknown", 404, claimed(), "agent_not_found", path=CLAIM),
    lease("a claim of too many", 422, claimed(count=101), "invalid", path=CLAIM),
    lease("a claim too long", 422, claimed(wait_s=31), "invalid", path=CLAIM),
    lease("a claim of no agent", 422, b"{}", "invalid", path=CLAIM),
    lease("a claim without a body", 400, b"", "unreadable", path=CLAIM),
    lease("a claim in half", 400, b"{", "unreadable", path=CLAIM),
    lease("a claim of an odd topic", 422, claimed(), "invalid_name",
        path="topics/a%7D%7Bb/claim", before=registered),
    lease("a claim of an operator", 403, claimed(), "permission_denied", path=CLAIM,
        token="operator"),
    lease("a claim for an agent of other topics", 403, claimed(), "topic_not_allowed",
        path="topics/only-this/claim", before=lent, token="bound agent"),
    lease("a claim for an agent within", 200, claimed(), path="topics/only-this/claim",
        before=lent_within, token="bound agent"),
    lease("a claim of nobody", 401, claimed(), "not_authenticated", path=CLAIM,
        token=None, lane=False),
    *(
        lease(f"{verb} of one unknown", 200, ends(more), path=f"deliveries/{verb}")
        for verb, more in (
            ("complete", {"result": 1}),
            ("fail", NO_ERROR),
            ("extend", {}),
            ("release", {}),
        )
    ),
    lease("complete what another holds", 200, ends({"result": 1}), before=lent,
        path="deliveries/complete"),
    lease("complete without a result", 422, ends({}), "invalid",
        path="deliveries/complete"),
    lease("complete the same twice", 422, ends({"result": 1}, {"result": 2}), "invalid",
        path="deliveries/complete"),
    lease("complete none", 422, ends(), "invalid", path="deliveries/complete"),
    lease("a fence that is none", 422, ends({"result": 1}, fence="1-1-1"),
        "invalid_name", path="deliveries/complete"),
    lease("fail without a type", 422, ends({"error": {"message": "no"}}), "invalid",
        path="deliveries/fail"),
    lease("101 to extend", 422, ends(*[{}] * 101), "invalid", path="deliveries/extend"),
    lease("release as text", 415, ends({}), "unsupported_media_type",
        path="deliveries/release", content_type="text/plain"),
    lease("release of a viewer", 403, ends({}), "permission_denied",
        path="deliveries/release", token="viewer"),
    lease("a beat with deliveries", 200, ends({}), path=BEAT, before=lent),
    lease("GET of a claim", 405, b"", "method_not_allowed", path=CLAIM, method="GET",
        lane=False),
]  # fmt: skip
ROWS = [*GOOD, *BAD, *REFUSED, *WHO, *METHODS, *OTHERS, *LEASES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_both_doors_answer_alike(row: Row, enter: Enter, settings: Settings) -> None:
    for name, value in row.settings.items():
        setattr(settings, name, value)

    door = enter("views")
    slow = row.ask(door)
    assert door.in_the_lane == 0
    check(row, slow)

    door = enter("express")
    fast = row.ask(door)
    assert door.in_the_lane == int(row.lane)
    check(row, fast)

    assert fast.comparable() == slow.comparable()


def check(row: Row, reply: Reply) -> None:
    """Hold a reply to its row."""
    assert reply.status == row.status, reply.body
    for name, wanted in row.told.items():
        said = reply.header(name)
        assert said == wanted or (wanted == "*" and said), (name, said)
    if row.code:
        assert reply.header("content-type") == DOCUMENT
        assert reply.json()["code"] == row.code, reply.body
    elif row.status < 300 and reply.body:
        assert reply.header("content-type") == JSON
    for name, value in row.says.items():
        assert reply.json()[name] == value, reply.body
    if row.status == 201:
        body = reply.json()
        place = f"{ROOT}/tasks/{body['id']}?topic={body['topic']}"
        assert reply.header("location") == place
        assert bus.get_task(body["id"], body["topic"]).state == body["state"]


def test_what_is_refused_has_written_nothing(
    enter: Enter, redis_client: redis.Redis
) -> None:
    door = enter("express")

    for row in BAD:
        assert row.ask(door).status == row.status

    names: Iterator[Any] = redis_client.scan_iter(count=1000)
    assert [name for name in names if not name.startswith("mesh:rate")] == []


def test_a_repeat_of_a_request_id_is_said_back(enter: Enter) -> None:
    for name in ("views", "express"):
        reply = enter(name).ask("enqueue", task(), [("X-Request-ID", "mine-1")])

        assert reply.header("x-request-id") == "mine-1"


@pytest.mark.parametrize("name", ["too large", "200 headers", "a slash behind"])
def test_what_is_refused_in_front_has_the_headers_of_the_site_too(
    name: str, enter: Enter
) -> None:
    row = next(row for row in ROWS if row.name == name)
    row = replace(row, headers=[*row.headers, ("X-Request-ID", "mine-1")])

    reply = row.ask(enter("views"))

    assert reply.header("x-request-id") == "mine-1"
    for header in ("x-content-type-options", "content-security-policy"):
        assert reply.header(header)


def test_a_bug_of_ours_is_the_same_500(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bus.api import calls

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(calls, "enqueued", fail)
    replies = [enter(name).ask("enqueue", task()) for name in ("views", "express")]

    for reply in replies:
        assert (reply.status, reply.json()["code"]) == (500, "internal_error")
        assert reply.header("x-error-id") == reply.json()["id"]
        assert b"ZeroDivision" not in reply.body
