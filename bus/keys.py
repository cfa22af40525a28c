"""Every key name of the mesh, from the data-model table; `gateway.keys` has its own.

Every key of a topic carries the hash tag `{topic}`, so a script that touches one topic
stays in one cluster slot. All names are built here and declared to the server by the
script that touches them; none is built in Lua.

tasks_stream  stream  `id, json, meta` per waiting or running task; never trimmed
results       stream  `id, json` per ended task, newest N; `epoch, attempts` of its past
dead          stream  `id, json, error, fp, fence, attempts, meta` per dead letter;
                      `died` (ms) of one that was brought back
tasks         hash    id -> record `sid|attempt|epoch|n|lost|flags|options`, live tasks
delayed       zset    id -> due time (ms, server clock)
parked        hash    id -> meta and payload of a task that is in no stream
done          zset    id -> result entry id as ms * 4096 + seq
dead_index    hash    id, or `alias:` + id of an entry moved by hand -> dead entry id
group         zset    dead entry ids of one failure fingerprint (one key each)
bin           stream  discarded letters, for undo
seen0, seen1  hash    idempotent ids -> payload digest, two generations
minutes, hours  hash  rings of 180 and of 720 packed counters and histograms
attempts      hash    id -> failed attempts and replays of a live task, a JSON line each
errors        hash    fingerprint -> facts of its group
counters      hash    lifetime counters, the ledger's sides; the working group again
settings      hash    working group, pause, limits; what to give out under a new fence
events        stream  what happened, for pages; lossy by contract
audit         hash    where the audit of the topic is, and what it found
log           stream  every transition, where tests ask the scripts for it; else absent
agents        zset    consumer -> expiry of its registration (ms, server clock)
replays, open_replays  zsets  bulk replay -> when made (ms); newest 100, not ended
job           hash    one bulk replay (one key each); 30 days after its last change
request       string  `job digest` of what a request by this name made; two days
todo          zset    `dead entry id task id` of its letters in a topic, in order
out           zset    `id epoch ms` of those replayed -> when to look what came of it
facts, told   hash, list  what came of all of them; of 1,000 that were not done, by name
gone          hash    agent id -> `last beat ms|ttl ms|record`, also of the live; 24 h
draining      hash    agent id -> the consumer that was told to finish and end
claim         string  fences one claim over HTTP was lent; for one lease
bucket        string  when a token bucket is full again (us, server clock); until then
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Final

from . import errors

TOPIC_SHAPE = re.compile(r"[a-z0-9](?:[a-z0-9:._-]{0,62}[a-z0-9_-])?")
AGENT_SHAPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._@-]{0,127}")
# Consumers of ours, whose names `prelude.lua` knows too; those by hand may have a `#`.
_OURS = re.compile(rf"({AGENT_SHAPE.pattern})#(?:[0-9A-Fa-f]{{8}}|http:([0-9]{{1,5}}))")
_BUCKET = re.compile(r"[A-Za-z0-9:._@-]{1,128}")
_CANONICAL: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPELLED: Final = re.compile(r"(?:urn:uuid:)?\{?[0-9A-Fa-f-]{32,40}\}?")
_RESERVED = frozenset({"agents"})

# The pseudo-consumer that holds entries handed over inside the pending list.
HANDED_OVER: Final = "~"
TOPICS: Final = "mesh:topics"
FORMAT: Final = "mesh:format"
AGENTS: Final = "mesh:agents:{agents}"
GONE: Final = "mesh:gone:{agents}"
REPLAYS: Final = "mesh:replays:{replays}"
OPEN_REPLAYS: Final = "mesh:replays:{replays}:open"
DRAINING: Final = "mesh:draining:{agents}"


def check_topic(topic: str) -> str:
    """The topic itself, or InvalidName."""
    if not isinstance(topic, str) or not TOPIC_SHAPE.fullmatch(topic):
        raise errors.InvalidName(
            f"topic {_shown(topic)} is not allowed: 1 to 64 of a-z 0-9 : . _ -, "
            "starting with a letter or digit, not ending in : or ."
        )
    if topic in _RESERVED:
        raise errors.InvalidName(f"topic {topic!r} is reserved; choose another name")
    return topic


def check_agent(agent_id: str) -> str:
    """The agent id itself, or InvalidName."""
    if not isinstance(agent_id, str) or not AGENT_SHAPE.fullmatch(agent_id):
        raise errors.InvalidName(
            f"agent id {_shown(agent_id)} is not allowed: 1 to 128 of "
            "A-Z a-z 0-9 : . _ @ -, starting with a letter or digit"
        )
    return agent_id


def check_group(group: str) -> str:
    """A group or consumer name: short printable text that is not our own `~`."""
    ok = isinstance(group, str) and 0 < len(group) <= 256 and group.isprintable()
    if not ok or group == HANDED_OVER:
        raise errors.InvalidName(
            f"group or consumer {_shown(group)} is not allowed: 1 to 256 printable "
            f"characters, not {HANDED_OVER!r}"
        )
    return group


def check_task_id(task_id: str) -> str:
    """The id in canonical UUID text, or InvalidName."""
    if type(task_id) is str and _CANONICAL.fullmatch(task_id):
        return task_id  # as we write them
    text = str(task_id)
    try:  # UUID() alone takes what int() does: digits of other scripts, underscores
        return str(uuid.UUID(text if _SPELLED.fullmatch(text) else ""))
    except ValueError:
        raise errors.InvalidName(
            f"task id {_shown(task_id)} is not a UUID, such as "
            "0198c0de-0000-7000-8000-000000000000"
        ) from None


def check_entry(entry_id: str) -> str:
    """A stream id such as 1732287600000-0 in its one spelling, or InvalidName."""
    ms, _, seq = str(entry_id).partition("-")
    plain = ms.isascii() and ms.isdigit() and seq.isascii() and seq.isdigit()
    if not plain or len(entry_id) > 64 or max(int(ms), int(seq)) >= 2**64:
        raise errors.InvalidName(
            f"entry id {_shown(entry_id)} is not a stream id, such as 1732287600000-0"
        )
    # The server reads 007-0 as 7-0; whoever compares texts must not see two.
    return f"{int(ms)}-{int(seq)}"


_FIRST: Final = "0-0"
_LAST: Final = f"{2**64 - 1}-{2**64 - 1}"
# No entry ever has one of these; the server refuses to go on behind the edge itself.
EDGES: Final = frozenset({_FIRST, _LAST})


def above(entry_id: str) -> str:
    """Where a range begins that holds what is newer than an entry."""
    return entry_id if entry_id == _LAST else f"({entry_id}"


def below(entry_id: str) -> str:
    """Where a range ends that holds what is older than an entry."""
    return entry_id if entry_id == _FIRST else f"({entry_id}"


def check_count(count: int, most: int = 100_000) -> int:
    """How many entries somebody asks for, or InvalidOption."""
    if type(count) is not int or not 1 <= count <= most:
        raise errors.InvalidOption(f"count {count!r} is not 1 to {most}")
    return count


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def task_stream(topic: str) -> str:
    """Key of the stream that holds a topic's waiting and running tasks."""
    return f"stream:tasks:{{{check_topic(topic)}}}"


def result_stream(topic: str) -> str:
    """Key of the stream that holds a topic's newest results."""
    return f"stream:results:{{{check_topic(topic)}}}"


def dead_stream(topic: str) -> str:
    """Key of the stream that holds a topic's dead letters."""
    return f"stream:dead:{{{check_topic(topic)}}}"


def agent_key(agent_id: str) -> str:
    """Key of an agent's record; it expires unless the agent beats."""
    return f"mesh:agent:{{agents}}:{check_agent(agent_id)}"


def group_key(topic: str, fingerprint: str) -> str:
    """Key of the dead letters that share one failure fingerprint."""
    return f"mesh:{{{topic}}}:group:{fingerprint}"


def job_key(job_id: str) -> str:
    """Key of the record of one bulk replay."""
    return f"mesh:replay:{{replays}}:{check_task_id(job_id)}"


def request_key(request_id: str) -> str:
    """Key of which bulk replay the request of this name made; any text may name it."""
    digest = hashlib.sha256(request_id.encode(errors="surrogatepass")).hexdigest()
    return f"mesh:replay:{{replays}}:request:{digest}"


def job_part(topic: str, job_id: str, part: str) -> str:
    """Key of what a bulk replay keeps of one topic: todo, out, facts or told."""
    return f"mesh:{{{topic}}}:replay:{job_id}:{part}"


def claim_key(topic: str, agent_id: str, claim_id: str) -> str:
    """Key of what one claim over HTTP was lent, for its repeats."""
    digest = hashlib.sha256(f"{agent_id} {claim_id}".encode()).hexdigest()[:32]
    return f"mesh:{{{topic}}}:claim:{digest}"


def rate_key(name: str) -> str:
    """Key of one token bucket, in a slot of its own; any text may name it."""
    if not _BUCKET.fullmatch(name):
        name = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"mesh:rate:{{{name}}}"


_OF_TOPIC: Final = {
    "tasks_stream": "stream:tasks:{%s}",
    "results": "stream:results:{%s}",
    "dead": "stream:dead:{%s}",
    "tasks": "mesh:{%s}:tasks",
    "delayed": "mesh:{%s}:delayed",
    "parked": "mesh:{%s}:parked",
    "done": "mesh:{%s}:done",
    "dead_index": "mesh:{%s}:deadindex",
    "bin": "mesh:{%s}:bin",
    "seen0": "mesh:{%s}:seen:0",
    "seen1": "mesh:{%s}:seen:1",
    "minutes": "mesh:{%s}:minutes",
    "hours": "mesh:{%s}:hours",
    "attempts": "mesh:{%s}:attempts",
    "errors": "mesh:{%s}:errors",
    "counters": "mesh:{%s}:counters",
    "settings": "mesh:{%s}:settings",
    "events": "mesh:{%s}:events",
    "audit": "mesh:{%s}:audit",
    "log": "mesh:{%s}:log",
}
_GLOBAL: Final = {
    "topics": TOPICS,
    "format": FORMAT,
    "agents": AGENTS,
    "gone": GONE,
    "replays": REPLAYS,
    "open_replays": OPEN_REPLAYS,
    "draining": DRAINING,
}
NAMES: Final = frozenset(_OF_TOPIC) | frozenset(_GLOBAL)


def named(name: str, topic: str) -> str:
    """The key a script header calls `name`; `topic` must have been checked."""
    pattern = _OF_TOPIC.get(name)
    return _GLOBAL[name] if pattern is None else pattern % topic


# One of these is there as long as there is anything of a topic.
WITNESSES: Final = ("tasks", "tasks_stream", "dead", "counters", "settings")


def topic_of(key: str) -> str | None:
    """The topic that one of `WITNESSES` belongs to; None of any other key."""
    for name in WITNESSES:
        head, _, tail = _OF_TOPIC[name].partition("%s")
        if key.startswith(head) and key.endswith(tail):
            topic = key[len(head) : -len(tail)]
            if TOPIC_SHAPE.fullmatch(topic) and topic not in _RESERVED:
                return topic
    return None


def foreign_id(topic: str, entry_id: str) -> str:
    """The task id of an entry somebody else wrote; `prelude.lua` derives the same."""
    digest = hashlib.sha1(f"{task_stream(topic)} {entry_id}".encode()).hexdigest()
    return str(uuid.UUID(f"{digest[:12]}5{digest[13:16]}8{digest[17:32]}"))


def consumer_of(agent_id: str) -> str:
    """A consumer for this process start: liveness belongs to it, not to the id."""
    return f"{check_agent(agent_id)}#{uuid.uuid4().hex[:8]}"


def lender_of(agent_id: str, lease_s: int) -> str:
    """The consumer of an agent over HTTP: no process of it is known, but its lease."""
    return f"{check_agent(agent_id)}#http:{lease_s}"


def lease_of(consumer: str) -> int | None:
    """The lease, s, of a consumer over HTTP; None for all others."""
    ours = _OURS.fullmatch(consumer)
    return int(ours[2]) if ours and ours[2] else None


def agent_of(consumer: str) -> str:
    """The agent id in a consumer name; hand-written consumers are their own."""
    ours = _OURS.fullmatch(consumer)
    return ours[1] if ours else consumer


def is_of_runtime(consumer: str) -> bool:
    """Whether it is a process of our runtime: neither by hand nor over HTTP."""
    return agent_of(consumer) != consumer and lease_of(consumer) is None


def client_name(consumer: str) -> str:
    """What a consumer's connections are called in CLIENT LIST."""
    return f"mesh:{consumer}"
