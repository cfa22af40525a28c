"""Proof that the model test bites: each of these broken scripts makes it fail.

Every mutant is one plausible mistake in one script. One that survives means a promise
nobody watches.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import redis

from bus import verbs
from tests.chaos.test_state_machine import poison_comes_soon, walk
from tests.support import chronicle

pytestmark = pytest.mark.chaos

WALKS = 40  # at most; nearly all are noticed by one of the first three

OWNER = "holds(tasks_stream, group, sid, me)"
MUTANTS: dict[str, tuple[str, str, str]] = {
    "complete: anybody may end a task": (
        "complete",
        "r.n == fence_n and held(sid)",
        "true",
    ),
    "complete: an old fence will do": (
        "complete",
        "r.n == fence_n and held(sid)",
        "held(sid)",
    ),
    "complete: the entry stays": (
        "complete",
        "call('XDEL', tasks_stream, unpack(sids))",
        "",
    ),
    "complete: the record stays": (
        "complete",
        "call('HDEL', tasks, unpack(gone_ids))",
        "",
    ),
    "complete: the end is not remembered": (
        "complete",
        "call('ZADD', done, unpack(scores))",
        "",
    ),
    "complete: nothing is counted": (
        "complete",
        "call('HINCRBY', counters, 'done', #mine)",
        "",
    ),
    "complete: the history stays": (
        "complete",
        "call('HDEL', attempts, unpack(forget))",
        "",
    ),
    "complete: the past is dropped": (
        "complete",
        "past[forget[i]] = past_of(epochs[i], lines[i])",
        "past[forget[i]] = NONE",
    ),
    "finish: anybody may end a task": (
        "finish",
        f"if not {OWNER} then return false end",
        "",
    ),
    "finish: an old fence will do": (
        "finish",
        "sid .. '|0|0|0|0|', 1",
        "sid .. '|', 1",
    ),
    "finish: the entry stays": ("finish", "call('XDEL', tasks_stream, sid)", ""),
    "finish: the record stays": ("finish", "call('HDEL', tasks, id)", ""),
    "finish: the end is not remembered": (
        "finish",
        "call('ZADD', done, done_score(at), id)",
        "",
    ),
    "finish: nothing is counted": (
        "finish",
        "pcall(call, 'HINCRBY', counters, 'done', 1)",
        "true",
    ),
    "fail: anybody may fail a task": (
        "fail",
        "or not holds(tasks_stream, working, sid, me)",
        "",
    ),
    "fail: an old fence will do": (
        "fail",
        "r.sid ~= sid or r.n ~= tonumber(fence_n)",
        "false",
    ),
    "fail: attempts are not counted": (
        "fail",
        "r.attempt = r.attempt + 1",
        "",
    ),
    "fail: the attempt is not on record": (
        "fail",
        "remember(attempts, id, line:sub",
        "remember(attempts, '', line:sub",
    ),
    "fail: a final failure is tried again": ("fail", "final ~= '1' and", ""),
    "fail: a cancel is forgotten": (
        "fail",
        "if match(r.flags, 'c') then",
        "if false then",
    ),
    "fail: the payload is not parked": (
        "fail",
        "call('HSET', parked, id, with_enqueued(e.meta, sid) .. '\\n' .. e.json)",
        "",
    ),
    "release: blind XCLAIM": (
        "release",
        f"r.n == fence_n and {OWNER}",
        "true",
    ),
    "release: the fence does not grow": ("release", "r.n = r.n + 1", ""),
    "reclaim: lost leases are not counted": ("reclaim", "r.lost = r.lost + 1", ""),
    "reclaim: poison lives on": ("reclaim", "r.lost >= allowed", "false"),
    "reclaim: a cancel is forgotten": (
        "reclaim",
        "if match(r.flags, 'c') then",
        "if false then",
    ),
    "heartbeat: blind XCLAIM": (
        "heartbeat",
        f"and r.n == fence_n\n      and {OWNER}",
        "",
    ),
    "claim: suspects are given with others": (
        "claim",
        "paused or r.lost >= suspect_at",
        "paused",
    ),
    "claim: handed-over suspects are given with others": (
        "claim",
        "alone == (r.lost >= suspect_at)",
        "true",
    ),
    "claim: pause is not looked at": ("claim", "set[1] == '1'", "false"),
    "claim: an entry without a record is given": (
        "claim",
        "if not r then return drop(k, group, sid) end",
        "if not r then return give(sid, e, '0-0|0|0|0|0||') end",
    ),
    "promote: the entry is not named in the record": (
        "promote",
        "call('HSET', tasks, id, write_record(r))",
        "",
    ),
    "promote: the parked payload stays": (
        "promote",
        "call('HDEL', parked, id)",
        "",
    ),
    "enqueue: another payload under a known id": (
        "enqueue",
        "stored and stored ~= json and { 4, stored } or",
        "",
    ),
    "enqueue: an ended task is sent again": (
        "enqueue",
        "elseif finished[n] then",
        "elseif false then",
    ),
    "enqueue: a dead task is sent again": (
        "enqueue",
        "elseif buried[n] then",
        "elseif false then",
    ),
    "enqueue: nothing is counted": (
        "enqueue",
        "call('HINCRBY', counters, 'accepted', accepted)",
        "",
    ),
    "send: nothing is counted": (
        "send",
        "pcall(call, 'HINCRBY', counters, 'accepted', count)",
        "true, count + 1",
    ),
    "send: the record is missing": ("send", "call('HSET', tasks, unpack(fresh))", ""),
    "send: a live task is sent again": (
        "send",
        "call('HEXISTS', tasks, id) == 1",
        "false",
    ),
    "send: an ended task is sent again": ("send", "call('ZSCORE', done, id)", "false"),
    "send: a dead task is sent again": (
        "send",
        "call('HEXISTS', dead_index, id) == 1",
        "false",
    ),
    "cancel: a running task is torn out": (
        "cancel",
        "if who and who ~= HANDED and not torn then",
        "if false then",
    ),
    "cancel: the entry stays": ("cancel", "leave(k.stream, who and group, r.sid)", ""),
    "cancel: the past is dropped": (
        "cancel",
        "past_of(r.epoch, lines))",
        "{})",
    ),
    "cancel: the due time stays": ("cancel", "call('ZREM', k.delayed, id)", ""),
    "replay: the letter stays": (
        "replay",
        "if now_dead ~= dead_id then return { 'moved' } end",
        "call('HSET', tasks, id, '1-1|0|1|0|0||') return { 'replayed', '1-1' }",
    ),
    "replay: the epoch stands still": (
        "replay",
        "'|0|' .. again.epoch ..",
        "'|0|0' ..",
    ),
    "replay: a second click replays again": (
        "replay",
        "local line = replayed_before(k, id, letter, mark)",
        "local line",
    ),
    "replay: a second click is told of another replay": (
        "replay",
        "return { 'repeat', line }",
        "return { 'repeat', '{}' }",
    ),
    "replay: the history is lost": (
        "replay",
        "call('HSET', k.attempts, id, letter.attempts)",
        "",
    ),
    "replay: nobody is told of it": (
        "replay",
        "remember(k.attempts, id, '{\"replay\":'",
        "remember(k.attempts, '', '{\"replay\":'",
    ),
    "discard: the past is dropped": (
        "discard",
        "past_of(tonumber(option(letter.meta or '', 'epoch') or 0), letter.attempts)",
        "{}",
    ),
    "discard: nothing is counted": (
        "discard",
        "call('HINCRBY', k.counters, 'discarded', 1)",
        "",
    ),
    "undo: nothing is counted": (
        "undo",
        "call('HINCRBY', counters, 'restored', 1)",
        "",
    ),
    "undo: the row of the discard stays": ("undo", "call('ZREM', done, id)", ""),
    "purge: running tasks are torn out": ("purge", "ARGV[4] == 'tear'", "true"),
    "purge: what runs is not asked to stop": ("purge", "ARGV[4] == 'ask'", "false"),
    "audit: a task in somebody's hand is handed over": (
        "audit_live",
        "and not holder(tasks_stream, working, r.sid)",
        "",
    ),
    "audit: a task that was not given yet is handed over": (
        "audit_live",
        "not is_after(r.sid, last)",
        "true",
    ),
    "ack: the record stays": ("ack", "call('HDEL', tasks, e.id)", ""),
    "claim: a strange meta passes for ours": (
        "claim",
        "if meta == '' or match(meta, '^e=%d+$') or match(meta, '^e=%d+,') then",
        "if true then",
    ),
    "move_to_dead: the attempt is not told": (
        "move_to_dead",
        "remember(attempts, id, '{",
        "remember(attempts, 'x', '{",
    ),
    "move_to_dead: the entry stays": (
        "move_to_dead",
        "leave(k.stream, group, r.sid)",
        "",
    ),
    "move_to_dead: the record stays": (
        "move_to_dead",
        "call('HDEL', k.tasks, id)\n",
        "\n",
    ),
}


@pytest.mark.usefixtures(poison_comes_soon.__name__)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_script_is_noticed(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    verb, old, new = MUTANTS[name]
    script = verbs.SCRIPTS[verb]
    assert old in script.text, "the script has changed: bring the mutant along"
    text = script.text.replace(old, new)
    sha = hashlib.sha1(text.encode()).hexdigest()
    mutant = replace(script, text=text, sha=sha)
    monkeypatch.setitem(verbs.SCRIPTS, verb, mutant)

    caught = any(_stumbles(redis_client, seed) for seed in range(WALKS))

    assert caught, f"{WALKS} walks did not notice"
    chronicle.record("S13 proofs", faults={"script broken, and noticed": 1})


def _stumbles(client: redis.Redis, seed: int) -> bool:
    try:
        walk(client, seed)
    except (Exception, pytest.fail.Exception):
        return True
    return False
