"""Names: what a topic, an agent, a group or an id may be, and the keys made of them."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import bus
from bus import errors, keys
from tests.support import ids

GOOD_TOPICS = (
    "a",
    "0",
    "demo",
    "a:b",
    "a.b",
    "a_b",
    "a-b",
    "a--b",
    "a::b",
    "a_",
    "a-",
    "orders:eu.west-1_v2",
    "agents2",
    "agent",
    "x" * 64,
)
BAD_TOPICS = (
    "",
    " ",
    "a}{b",
    "{a}",
    "a{b",
    "*",
    "a*",
    "?",
    "[a]",
    "../x",
    "..",
    ".",
    ".a",
    "a.",
    "a:",
    ":a",
    "-a",
    "_a",
    "a/b",
    "a\\b",
    "a b",
    "a\tb",
    "a\n",
    "\na",
    "a\r\n",
    "a\x00",
    "a\x00b",
    "A",
    "Demo",
    "x" * 65,
    "\uff41",  # full-width a
    "\u0661",  # a digit, but not one of ours
    "\u00e4",
    "\u212a",  # the Kelvin sign, which lowers to k
    "a\u200bb",
    "a\u202eb",
    "%00",
    "a%2fb",
    "a,b",
    "a|b",
    "a~b",
    "~",
    "\ud800",
    "agents",
)
NOT_TEXT = (None, 5, b"demo", ["demo"], {"a": 1})
GLOBAL_NAMES = {
    "topics",
    "format",
    "agents",
    "gone",
    "draining",
    "replays",
    "open_replays",
}  # of no topic


@pytest.mark.parametrize("topic", GOOD_TOPICS)
def test_it_takes_a_good_topic_as_it_is(topic: str) -> None:
    assert keys.check_topic(topic) == topic


@pytest.mark.parametrize("topic", BAD_TOPICS, ids=ids.plain)
@pytest.mark.parametrize(
    "key_of", [keys.task_stream, keys.result_stream, keys.dead_stream]
)
def test_it_makes_no_key_of_a_hostile_topic(key_of: object, topic: str) -> None:
    assert callable(key_of)

    with pytest.raises(errors.InvalidName, match="topic"):
        key_of(topic)


@pytest.mark.parametrize("topic", NOT_TEXT, ids=ids.plain)
def test_it_refuses_a_topic_that_is_not_text(topic: object) -> None:
    with pytest.raises(errors.InvalidName, match="topic"):
        keys.check_topic(topic)  # type: ignore[arg-type]


def test_it_says_what_a_topic_may_be() -> None:
    with pytest.raises(errors.InvalidName) as refusal:
        keys.check_topic("No!")

    assert "'No!'" in str(refusal.value)
    assert "1 to 64 of a-z 0-9" in str(refusal.value)
    assert refusal.value.code == "invalid_name"


def test_it_says_that_a_reserved_topic_is_reserved() -> None:
    with pytest.raises(errors.InvalidName, match="reserved"):
        keys.check_topic("agents")


def test_it_does_not_repeat_a_megabyte_of_bad_topic() -> None:
    with pytest.raises(errors.InvalidName) as refusal:
        keys.check_topic("x" * 1_000_000)

    assert len(str(refusal.value)) < 300


def test_an_invalid_name_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="topic"):
        keys.check_topic("*")


@hypothesis.settings(deadline=None)
@given(st.text(max_size=70))
def test_it_takes_exactly_the_documented_grammar(text: str) -> None:
    grammar = re.compile(r"\A[a-z0-9](?:[a-z0-9:._-]{0,62}[a-z0-9_-])?\Z")
    allowed = bool(grammar.match(text)) and not text.endswith("\n")

    try:
        taken = keys.check_topic(text) == text
    except errors.InvalidName:
        taken = False

    assert taken == (allowed and text != "agents")


@hypothesis.settings(deadline=None)
@given(st.from_regex(r"[a-z0-9][a-z0-9:._-]{0,62}[a-z0-9_-]", fullmatch=True))
def test_every_key_of_a_topic_carries_its_hash_tag(topic: str) -> None:
    made = [
        keys.task_stream(topic),
        keys.result_stream(topic),
        keys.dead_stream(topic),
        keys.group_key(topic, "0123456789abcdef"),
        *(keys.named(name, topic) for name in keys.NAMES - GLOBAL_NAMES),
    ]

    # The first {…} decides the cluster slot.
    tags = {re.search(r"\{([^}]*)\}", key) for key in made}
    assert {tag.group(1) for tag in tags if tag} == {topic}
    assert None not in tags


def test_two_topics_share_no_key() -> None:
    topics = ["a", "a:b", "b", "a:b:c", "tasks", "a.b", "topics", "group"]

    made = [
        keys.named(name, topic)
        for topic in topics
        for name in keys.NAMES - GLOBAL_NAMES
    ]

    assert len(set(made)) == len(made)


def test_the_streams_have_their_founding_names() -> None:
    assert keys.task_stream("demo") == "stream:tasks:{demo}"
    assert keys.result_stream("demo") == "stream:results:{demo}"
    assert keys.dead_stream("demo") == "stream:dead:{demo}"


@pytest.mark.parametrize("agent_id", ["a", "A.b:c_d@host-1", "0", "x" * 128])
def test_an_agents_key_names_it_behind_the_tag_of_all_agents(agent_id: str) -> None:
    assert keys.agent_key(agent_id) == f"mesh:agent:{{agents}}:{agent_id}"


@pytest.mark.parametrize(
    "agent_id",
    ["", " ", "a b", "a\n", "-a", "@a", "x" * 129, "a#b", "a{b}", "é", "~", None, 7],
    ids=ids.plain,
)
def test_it_refuses_a_hostile_agent_id(agent_id: str) -> None:
    with pytest.raises(errors.InvalidName, match="agent id"):
        keys.agent_key(agent_id)


@pytest.mark.parametrize("group", ["workers", "my group", "Grüße", "a#b", "x" * 256])
def test_it_takes_any_printable_group(group: str) -> None:
    assert keys.check_group(group) == group


@pytest.mark.parametrize(
    "group", ["", "~", "a\nb", "a\x00", "x" * 257, "\ud800", "a\u202eb", None, 5, b"g"]
)
def test_it_refuses_a_group_that_is_empty_unprintable_or_ours(group: str) -> None:
    with pytest.raises(errors.InvalidName, match="group"):
        keys.check_group(group)


@pytest.mark.parametrize(
    "spelling",
    [
        "0198c0de-0000-7000-8000-00000000abcd",
        "0198C0DE-0000-7000-8000-00000000ABCD",
        "0198c0de00007000800000000000abcd",
        "{0198c0de-0000-7000-8000-00000000abcd}",
        "urn:uuid:0198c0de-0000-7000-8000-00000000abcd",
    ],
)
def test_one_task_id_has_one_spelling(spelling: str) -> None:
    assert keys.check_task_id(spelling) == "0198c0de-0000-7000-8000-00000000abcd"


@pytest.mark.parametrize(
    "task_id",
    [
        *("", "*", "../", "x" * 1_000_000, "0198c0de", None, 5, b"x", ["a"]),
        *("０198c0de-0000-7000-8000-00000000abcd", "0198c0de_0000_7000_8000_00000abc"),
        *(" 198c0de00007000800000000000abcd", "+198c0de00007000800000000000abcd"),
    ],
    ids=ids.plain,
)
def test_it_refuses_a_task_id_that_is_no_uuid(task_id: str) -> None:
    with pytest.raises(errors.InvalidName, match="UUID") as refusal:
        keys.check_task_id(task_id)

    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("entry_id", ["0-1", "1732287600000-0", "1732287600000-4095"])
def test_it_takes_a_stream_id_as_it_is(entry_id: str) -> None:
    assert keys.check_entry(entry_id) == entry_id


@pytest.mark.parametrize(
    "entry_id",
    ["", "-", "+", "$", ">", "*", "1", "1-", "-1", "1-1-1", "a-1", "1-*", " 1-1"]
    + ["1-1\n", "\u0661-1", "\u00b2-1", "1.0-1", None, 5, ["1-1"]],
    ids=ids.plain,
)
def test_it_refuses_what_is_no_stream_id(entry_id: str) -> None:
    with pytest.raises(errors.InvalidName, match="entry id"):
        keys.check_entry(entry_id)


@pytest.mark.parametrize(
    "entry_id", [f"{2**64}-0", f"1-{2**64}", "9" * 400 + "-0"], ids=ids.plain
)
def test_it_refuses_a_stream_id_beyond_64_bits(entry_id: str) -> None:
    """The server could not even parse it, which would be its error, not ours."""
    with pytest.raises(errors.InvalidName, match="entry id"):
        keys.check_entry(entry_id)


def test_the_id_of_a_foreign_entry_is_a_uuid_and_always_the_same() -> None:
    first = keys.foreign_id("demo", "1732287600000-0")

    assert first == keys.foreign_id("demo", "1732287600000-0")
    assert str(uuid.UUID(first)) == first
    assert first != keys.foreign_id("demo", "1732287600000-1")
    assert first != keys.foreign_id("other", "1732287600000-0")


def test_a_consumer_belongs_to_its_agent() -> None:
    consumer = keys.consumer_of("agent-1")

    assert keys.agent_of(consumer) == "agent-1"
    assert keys.is_of_runtime(consumer)
    assert consumer != keys.consumer_of("agent-1")


@pytest.mark.parametrize(
    "name",
    [
        *("written-by-hand", "worker#1", "worker#0123456", "worker#012345678"),
        *("worker#0123456x", "#01234567", "a worker#01234567", "a#b#01234567"),
        *("worker#http:", "worker#http:x", "worker#http:123456", "worker#http:15x"),
        *("worker#http:\u0661", "worker#01234567\n", "~", ""),
    ],
)
def test_any_other_name_is_its_own_agent_by_hand(name: str) -> None:
    assert keys.agent_of(name) == name
    assert keys.lease_of(name) is None
    assert not keys.is_of_runtime(name)


# --- every door checks its topic first

TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"
HOSTILE: dict[str, Callable[[str], Any]] = {
    "task_stream": bus.task_stream,
    "result_stream": bus.result_stream,
    "dead_stream": bus.dead_stream,
    "enqueue_task": lambda topic: bus.enqueue_task(topic, 1),
    "enqueue_many": lambda topic: bus.enqueue_many(topic, [1]),
    "tail_results": bus.tail_results,
    "create_consumer_group": lambda topic: bus.create_consumer_group(topic, "g"),
    "read_group": lambda topic: bus.read_group(topic, "g", "c", block_ms=0),
    "ack": lambda topic: bus.ack(topic, "g", "1-0"),
    "move_to_dead": lambda topic: bus.move_to_dead(topic, "1-0", {}),
    "list_dead": bus.list_dead,
    "dead_groups": bus.dead_groups,
    "replay": lambda topic: bus.replay(TASK_ID, topic),
    "discard": lambda topic: bus.discard(TASK_ID, topic),
    "undo": lambda topic: bus.undo(TASK_ID, topic),
    "cancel": lambda topic: bus.cancel(TASK_ID, topic),
    "get_task": lambda topic: bus.get_task(TASK_ID, topic),
    "wait_result": lambda topic: bus.wait_result(TASK_ID, topic),
    "stats": bus.stats,
    "pause": bus.pause,
    "set_limits": lambda topic: bus.set_limits(topic, results_keep=1),
}


@pytest.mark.parametrize(
    "topic", ["a}{b", "*", "../x", "x" * 65, "ａ", "a\n", "a."], ids=ids.plain
)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_function_takes_a_hostile_topic(
    redis_client: redis.Redis, name: str, topic: str
) -> None:
    with pytest.raises(errors.InvalidName, match="topic"):
        HOSTILE[name](topic)

    assert redis_client.dbsize() == 0


# --- ranges, counts and what is derived from a name

LAST = f"{2**64 - 1}-{2**64 - 1}"


def test_a_range_leaves_its_entry_out_but_at_the_edge_the_server_cannot() -> None:
    assert (keys.above("7-1"), keys.below("7-1")) == ("(7-1", "(7-1")
    assert (keys.above(LAST), keys.below(LAST)) == (LAST, f"({LAST}")
    assert (keys.above("0-0"), keys.below("0-0")) == ("(0-0", "0-0")


@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_it_takes_a_count_up_to_its_bound(count: int) -> None:
    assert keys.check_count(count) == count


@pytest.mark.parametrize("count", [0, -1, 100_001, 2.0, "5", True, None])
def test_it_refuses_any_other_count(count: object) -> None:
    with pytest.raises(errors.InvalidOption, match=f"{count!r} is not 1 to 100000"):
        keys.check_count(count)  # type: ignore[arg-type]


def test_a_caller_may_allow_fewer() -> None:
    assert keys.check_count(5, 5) == 5
    with pytest.raises(errors.InvalidOption, match="count 6 is not 1 to 5"):
        keys.check_count(6, 5)


def test_names_that_may_be_any_text_become_digests() -> None:
    name = "\ud800}{"
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()

    assert keys.rate_key("api:ann") == "mesh:rate:{api:ann}"
    assert keys.rate_key(name) == f"mesh:rate:{{{digest}}}"
    assert keys.request_key(name) == f"mesh:replay:{{replays}}:request:{digest}"


def test_keys_of_a_bulk_replay_carry_its_id() -> None:
    job = "0198c0de-0000-7000-8000-000000000000"

    assert keys.job_key(job.upper()) == f"mesh:replay:{{replays}}:{job}"
    assert keys.job_part("t", job, "todo") == f"mesh:{{t}}:replay:{job}:todo"


def test_a_claim_is_remembered_per_topic_agent_and_name() -> None:
    digest = hashlib.sha256(b"mill claim-1").hexdigest()[:32]

    assert keys.claim_key("t", "mill", "claim-1") == f"mesh:{{t}}:claim:{digest}"


def test_a_consumer_over_http_tells_its_lease() -> None:
    lender = keys.lender_of("mill", 60)

    assert lender == "mill#http:60"
    assert (keys.lease_of(lender), keys.agent_of(lender)) == (60, "mill")
    assert not keys.is_of_runtime(lender)
    for other in ("mill", "mill#a1b2c3d4", "mill#http:", "mill#http:²"):
        assert keys.lease_of(other) is None


@pytest.mark.parametrize("name", keys.WITNESSES)
def test_a_topic_is_found_by_any_of_its_witnesses(name: str) -> None:
    assert keys.topic_of(keys.named(name, "a:b")) == "a:b"


@pytest.mark.parametrize(
    "key",
    [
        *("mesh:{t}:delayed", "mesh:{T}:tasks", "mesh:{agents}:tasks", "mesh:{t:tasks"),
        *("x", "stream:tasks:{}", "xstream:tasks:{t}", "stream:tasks:{t}x"),
    ],
)
def test_no_other_key_names_a_topic(key: str) -> None:
    assert keys.topic_of(key) is None


@pytest.mark.parametrize(
    ("check", "name", "said"),
    [
        (
            keys.check_topic,
            "A",
            "topic 'A' is not allowed: 1 to 64 of a-z 0-9 : . _ -, starting with a "
            "letter or digit, not ending in : or .",
        ),
        (
            keys.check_agent,
            "a b",
            "agent id 'a b' is not allowed: 1 to 128 of A-Z a-z 0-9 : . _ @ -, "
            "starting with a letter or digit",
        ),
        (
            keys.check_group,
            "~",
            "group or consumer '~' is not allowed: 1 to 256 printable characters, not "
            "'~'",
        ),
        (
            keys.check_task_id,
            "x" * 79,
            f"task id '{'x' * 76}... is not a UUID, such as "
            "0198c0de-0000-7000-8000-000000000000",
        ),
        (
            keys.check_entry,
            "x" * 78,
            f"entry id '{'x' * 78}' is not a stream id, such as 1732287600000-0",
        ),
    ],
)
def test_a_refusal_shows_the_name_and_says_what_is_allowed(
    check: Callable[[str], str], name: str, said: str
) -> None:
    with pytest.raises(errors.InvalidName) as caught:
        check(name)

    assert str(caught.value) == said


def test_names_may_be_as_short_and_ids_as_long_as_the_server_has_them() -> None:
    assert keys.check_group("a") == "a"
    assert keys.check_entry(f"{'0' * 61}1-0") == "1-0"
    with pytest.raises(errors.InvalidName):
        keys.check_entry(f"{'0' * 62}1-0")


def test_a_key_of_no_topic_is_the_same_for_all() -> None:
    assert keys.named("topics", "a") == keys.named("topics", "b") == "mesh:topics"
