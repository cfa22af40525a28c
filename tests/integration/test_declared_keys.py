"""Every script touches only the keys it declares, as a cluster would demand.

All scripts run as a user of the server who may touch nothing but the keys of the call
at hand; what a script tries beyond them is refused and stands in the server's ACL log.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from pytest_django import Settings

import bus
from bus import agents as agents_of_the_mesh
from bus import (
    auditor,
    endings,
    errors,
    fences,
    janitor,
    judge,
    keys,
    leases,
    lines,
    metrics,
    ratelimit,
    replays,
    scripts,
    timeline,
    verbs,
    wire,
)
from bus.bulk.driver import Foreman
from bus.gateway import keys as gateway_keys
from bus.judge import Judge
from tests.support import agents, bulk, packed, work
from tests.support.desk import Desk
from tests.support.town import SABOTAGE, build_town
from tests.support.waiting import wait_until

GROUP = "workers"
TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"


class Fence:
    """Lets scripts through one at a time, each with its declared keys only."""

    def __init__(self, admin: redis.Redis, url: str) -> None:
        self.verbs: set[str] = set()
        self.slots: set[str] = set()
        self._admin = admin
        self._lock = threading.Lock()
        self._names = {script.sha: name for name, script in verbs.SCRIPTS.items()}
        self._names |= {script.text: name for name, script in verbs.SCRIPTS.items()}
        admin.acl_setuser("fenced", enabled=True, nopass=True, commands=["+@all"])
        host = url.rpartition("@")[2]
        self.client = redis.Redis.from_url(
            f"redis://fenced:any@{host}",
            decode_responses=True,
            encoding_errors="surrogateescape",
        )
        self._ran = 0
        admin.config_resetstat()

    def run(self, command: str, text: str, count: int, *args: Any) -> Any:
        declared = [f"~{key}" for key in args[: int(count)]]
        with self._lock:
            self._admin.execute_command(
                "ACL", "SETUSER", "fenced", "resetkeys", *declared
            )
            self.verbs.add(self._names.get(text, text))
            self._ran += 1
            return self.client.execute_command(command, text, count, *args)

    def denied(self) -> list[str]:
        """What scripts tried beyond their keys, also where they caught the error.

        Scripts that passed outside, where nobody asked for their keys, count as well.
        """
        rows = self._admin.acl_log()
        tried = [f"{row['object']} ({row['context']})" for row in rows]
        return tried + ["a script outside the fence"] * self._outside()

    def _outside(self) -> int:
        seen: Any = self._admin.info("commandstats")
        stats = [seen.get(f"cmdstat_{word}", {}) for word in ("eval", "evalsha")]
        came = sum(x.get("calls", 0) + x.get("rejected_calls", 0) for x in stats)
        return int(came - self._ran)


@pytest.fixture
def fence(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fence]:
    redis_client.acl_log_reset()
    fence = Fence(redis_client, redis_url)
    real = redis.Redis.execute_command
    areal_redis = redis.asyncio.Redis.execute_command
    areal = wire.Wire.execute_command
    real_packed = lines.Line.call_packed

    def execute(client: redis.Redis, *args: Any, **options: Any) -> Any:
        if args[0] in ("EVAL", "EVALSHA") and client is not fence.client:
            return fence.run(*args)
        return real(client, *args, **options)

    def call_packed(
        line: lines.Line, data: bytes, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        words = packed.words_of(data)
        if words[0] not in ("EVAL", "EVALSHA"):
            return real_packed(line, data, meanwhile)
        if meanwhile is not None:
            meanwhile()
        return fence.run(*words)

    def call_all(line: lines.Line, commands: list[tuple[Any, ...]]) -> list[Any]:
        replies = []
        for command in commands:
            try:
                replies.append(line.call(command))
            except redis.ResponseError as exc:
                replies.append(exc)
        return replies

    async def aexecute_redis(client: Any, *args: Any, **options: Any) -> Any:
        if args[0] in ("EVAL", "EVALSHA"):
            return fence.run(*args)
        return await areal_redis(client, *args, **options)

    async def aexecute(wired: wire.Wire, *args: Any) -> Any:
        if args[0] in ("EVAL", "EVALSHA"):
            return fence.run(*args)
        return await areal(wired, *args)

    async def ask_all(
        wired: wire.Wire, *commands: tuple[Any, ...], more_s: float = 0.0
    ) -> list[Any]:
        return [await aexecute(wired, *command) for command in commands]

    def send_packed(wired: wire.Wire, data: bytes) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        try:
            answer.set_result(fence.run(*packed.words_of(data)))
        except redis.ResponseError as exc:
            answer.set_exception(exc)
        return answer

    monkeypatch.setattr(redis.Redis, "execute_command", execute)
    monkeypatch.setattr(lines.Line, "call_packed", call_packed)
    monkeypatch.setattr(lines.Line, "call_all", call_all)
    monkeypatch.setattr(redis.asyncio.Redis, "execute_command", aexecute_redis)
    monkeypatch.setattr(wire.Wire, "execute_command", aexecute)
    monkeypatch.setattr(wire.Wire, "send_packed", send_packed)
    monkeypatch.setattr(wire.Wire, "introduce", lambda wired, word: True)
    monkeypatch.setattr(wire.Wire, "ask_all", ask_all)
    yield fence
    fence.client.close()
    redis_client.acl_deluser("fenced")
    redis_client.acl_log_reset()


def read(topic: str, count: int = 1) -> list[str]:
    entries = bus.read_group(topic, GROUP, "me", count, block_ms=0)
    return [entry_id for entry_id, _ in entries]


def test_the_fence_lets_nothing_else_through(
    fence: Fence, test_topic: str, redis_client: redis.Redis
) -> None:
    """Without this the other tests of this file could not fail."""
    redis_client.set("elsewhere", 1, px=60_000)
    script = "return redis.call('GET', 'elsewhere')"

    with pytest.raises(redis.ResponseError, match="access .* keys?"):
        fence.run("EVAL", script, 0)
    quiet = fence.run(
        "EVAL", "return redis.pcall('GET', 'elsewhere').err and 1", 1, "x"
    )

    assert quiet == 1
    assert fence.denied()


def test_the_fence_sees_a_script_that_goes_around_it(
    fence: Fence, redis_client: redis.Redis
) -> None:
    with redis_client.pipeline() as around:
        around.eval("return 1", 0)
        around.execute()

    assert fence.denied() == ["a script outside the fence"]


def test_every_way_to_the_server_leads_through_the_fence(
    fence: Fence, test_topic: str
) -> None:
    """Packed in parts, over a line to oneself, and with others."""
    for _ in range(3):
        task_id = bus.enqueue_task(test_topic, 1)
    bus.enqueue_task(test_topic, 1, durability="aof")
    bus.get_task(task_id)

    assert fence.denied() == []
    assert fence.verbs >= {"send", "enqueue", "get_task"}


def test_a_life_among_agents_stays_within_the_declared_keys(
    fence: Fence, test_topic: str, redis_client: redis.Redis
) -> None:
    """Enqueue, claim, complete, fail, retry, release, beats, the janitor's duties."""
    other = f"{test_topic}:failing"
    bus.enqueue_many(test_topic, range(50))
    bus.enqueue_task(test_topic, 1, delay_s=0.05)
    redis_client.xadd(bus.task_stream(test_topic), {"json": "1"})
    redis_client.xadd(bus.task_stream(test_topic), {"json": "broken"})
    redis_client.xadd(bus.task_stream(test_topic), {"id": "x", "json": "1", "meta": ""})
    bus.enqueue_many(other, range(5))
    running = bus.enqueue_task(test_topic, "slow")

    def ends_alone() -> bool:
        bus.wait_result(bus.enqueue_task(test_topic, 1), test_topic)
        return "finish" in fence.verbs

    with (
        agents.running(test_topic, work.nap, agent_id="naps"),
        agents.running(
            other, work.failing, agent_id="fails", max_attempts=2, backoff_s=0.001
        ),
    ):
        wait_until(lambda: bus.stats(test_topic)["done"] == 53, 20)
        wait_until(lambda: bus.stats(other)["dead"] == 5, 20)
        wait_until(lambda: {"heartbeat", "beat"} <= fence.verbs, 20)
        wait_until(ends_alone, 20)

    assert bus.get_task(running, test_topic).state == "done"
    assert fence.denied() == []
    assert fence.verbs >= {
        "add_topic",
        "beat",
        "claim",
        "complete",
        "deregister",
        "enqueue",
        "ensure_group",
        "fail",
        "finish",
        "get_task",
        "heartbeat",
        "move_to_dead",
        "promote",
        "received",
        "recover",
        "register",
        "stats",
    }


def test_every_verb_by_hand_stays_within_the_declared_keys(
    fence: Fence, test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """Each branch that the agents do not come by."""
    key = bus.task_stream(test_topic)
    bus.create_consumer_group(test_topic, GROUP)
    # Repeats of a task in every place.
    for delay_s in (None, 60):
        task_id = bus.enqueue_task(test_topic, 1, delay_s=delay_s)
        bus.enqueue_task(test_topic, 1, task_id=task_id)
        bus.cancel(task_id, test_topic)
        bus.enqueue_task(test_topic, 1, task_id=task_id)
    with pytest.raises(errors.TaskNotFound):
        bus.cancel(TASK_ID, test_topic)
    # Ends by hand, of our entries and of foreign ones, known and unknown.
    bus.enqueue_many(test_topic, range(4))
    for n in range(2):
        redis_client.xadd(key, {"json": str(n)})
    first, second, third, fourth, fifth, sixth = read(test_topic, 6)
    bus.ack(test_topic, GROUP, first)
    bus.ack(test_topic, GROUP, fifth)
    bus.ack(test_topic, "observers", second)
    for entry_id in (second, third, sixth, second, "1-0", "1-0"):
        bus.move_to_dead(test_topic, entry_id, {"error": entry_id})
    # Run now: delayed, waiting, dead, cancelled.
    for delay_s in (60, None):
        task_id = bus.enqueue_task(test_topic, 1, delay_s=delay_s)
        if delay_s:
            bus.run_now(task_id, test_topic, request_id="x")
        bus.cancel(task_id, test_topic)
        bus.run_now(task_id, test_topic, request_id="x")
    # Letters: replayed, discarded, undone, refused.
    for letter in bus.list_dead(test_topic):
        bus.enqueue_task(test_topic, letter.payload, task_id=letter.id)
        bus.discard(letter.id, test_topic)
        bus.undo(letter.id, test_topic)
        bus.replay(letter.id, test_topic)
        with pytest.raises(errors.NotDead):
            bus.replay(letter.id, test_topic)
    # Lost: handed over, cancelled, poison, foreign, of no task.
    taken = read(test_topic, 9)
    Judge("me").reclaim(test_topic)
    cancelled = bus.get_redis().hkeys(keys.named("tasks", test_topic))[0]
    bus.cancel(str(cancelled), test_topic)
    redis_client.xadd(key, {"json": "1"})
    redis_client.xadd(key, {"id": "x", "json": "1", "meta": ""})
    redis_client.xreadgroup(GROUP, "me", {key: ">"})
    judge.take(test_topic, GROUP, "me", idle_ms=0)
    settings.MESH_MAX_DELIVERIES = 1
    assert len(taken) > 3
    read(test_topic, 9)
    judge.take(test_topic, GROUP, "me", idle_ms=0)
    # Topics and agents.
    bus.pause(test_topic)
    bus.enqueue_task(test_topic, 1)
    read(test_topic)
    bus.resume(test_topic)
    bus.set_limits(test_topic, results_keep=1)
    janitor.trim(test_topic)
    bus.register_agent("hand", "t")
    agents_of_the_mesh.drain_agent("hand")
    bus.heartbeat_agent("hand")
    bus.deregister_agent("hand")
    settings.MESH_GONE_AGENTS_KEEP_S = -1
    janitor.forget_agents()
    audited(test_topic, redis_client)
    replayed_in_bulk(f"{test_topic}:bulk", redis_client)
    scripts.run("drop_consumer", test_topic, [GROUP, "me", 3_600_000])
    scripts.run("ends", test_topic, ["0-0", 10])
    scripts.run("mark", test_topic)
    bus.stats(test_topic)
    ratelimit.take("fence", 1, 1)
    lent_and_ended(f"{test_topic}:lent")
    flown_together("d")
    for state in ("running", "waiting", "delayed", None):
        bus.list_tasks(test_topic, state)
    for task in bus.list_tasks(test_topic)[0]:
        bus.explain(task.id, test_topic)
        timeline.timeline(task)
        metrics.text()

    assert fourth
    assert fence.denied() == []
    assert bus.stats(test_topic)["ledger"]["drift"] == 0
    assert set(verbs.SCRIPTS) - fence.verbs <= OF_AGENTS


def lent_and_ended(topic: str) -> None:
    """Over HTTP: new tasks and handed-over ones, suspects, repeats, every end."""
    scripts.run("arrived", topic)
    bus.enqueue_many(topic, range(9))
    leases.register("http", "t", 60, {}, None)
    for count in (5, 3, 1):
        lent = leases.claim(topic, "http", count, f"{count}").lent
        leases.claim(topic, "http", count, f"{count}")
        held = [endings.fence_of(topic, each.id, each.fence) for each in lent]
        for _ in range(2):
            fences.extend(held)
            fences.complete([(each, b"1") for each in held[:1]])
            for final in (False, True):
                how = fences.Failed("T", "m", final=final)
                fences.fail([(each, how) for each in held[1:2]])
            fences.release(held[2:4])
        leases.leave("http")
        leases.register("http", "t", 60, {}, None)


def flown_together(digest: str) -> None:
    """A flight of the gateway that is led, followed, told of and ended, and counted."""
    both = gateway_keys.flight_keys(digest, "a")
    for who in ("a", "b"):
        scripts.run("board", "", [who, 9_000], both[:1])
    scripts.run("relay", "", ["a", 9_000, 9_000, 0, "{}", "."], both)
    scripts.run("follow", "", ["a", 0, 9], both)
    assert [scripts.run("land", "", ["a", n, 9_000, 9], both) for n in (-1, 2)] == [
        0,
        1,
    ]
    both = [gateway_keys.FIGURES, gateway_keys.RUNNING]
    scripts.run("generating", "", [9_000, "g", "{}"], both[1:])
    assert scripts.run("stop_generation", "", ["g"], both[1:]) == 1
    assert scripts.run("generating", "", [9_000, "g", "{}"], both[1:]) == ["g"]
    scripts.run("generated", "", ["g", 1, 2], both)


def audited(topic: str, client: redis.Redis) -> None:
    """The audit of a whole topic, and of one that is torn in many places."""
    auditor.audit(topic)
    town = build_town(client, f"{topic}:town")
    for wound in SABOTAGE.values():
        wound(town)
    client.xgroup_delconsumer(town.key("tasks_stream"), GROUP, "desk#00000001")
    client.set(town.key("hours"), 1)
    client.xadd(town.key("tasks_stream"), {"json": "1"}, id=f"{2**64 - 1}-0")
    assert auditor.audit(town.topic).mended
    client.hincrby(keys.named("counters", topic), "accepted", 3)
    bus.settle_ledger(topic)
    auditor.audit_registry()
    bus.purge_topic(town.topic, "all")
    bus.delete_topic(town.topic, force=True)


def replayed_in_bulk(topic: str, client: redis.Redis) -> None:
    """A bulk replay with every outcome, cancelled; one that nobody starts."""
    ids = bulk.dead(topic, 4)
    client.xadd(bus.dead_stream(topic), {"id": "by hand", "json": "1"})
    job = bulk.created(topic)
    bus.discard(ids[3], topic)
    foreman, desk = Foreman(), Desk(topic)
    foreman.round()
    desk.fail(desk.one(), final=True)
    bus.cancel(ids[1], topic)
    desk.complete(desk.one())
    bulk.driven(foreman, job)
    frozen = bulk.created(topic, canary=True)
    foreman.round()
    replays.pause(frozen.id)
    replays.resume(frozen.id)
    replays.cancel(frozen.id)
    replays.drop(frozen.id, frozen)
    replays.create_once("a request", replays.select(topics=[topic]))


# These need the runtime; the life among agents has them.
OF_AGENTS = {
    "complete",
    "fail",
    "finish",
    "heartbeat",
    "promote",
    "received",
    "recover",
    "release",
}


def test_an_agent_that_gives_back_what_it_has_stays_within_the_declared_keys(
    fence: Fence, test_topic: str
) -> None:
    bus.enqueue_many(test_topic, range(1_000))  # 10 s of work, of which it takes some

    with agents.running(test_topic, work.block, concurrency=1, grace_s=0.01):
        wait_until(lambda: bus.stats(test_topic)["running"] > 1, 20)

    assert "release" in fence.verbs
    assert fence.denied() == []
