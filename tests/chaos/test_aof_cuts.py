"""The append-only file cut anywhere: what is left is whole, and holds what was said.

A crash of the machine leaves some prefix of the file. Whatever that prefix is, every
invariant between the containers must hold after the restart (a script is in the file as
one unit), and every task whose acceptance lies within the prefix must be known.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

import bus
from bus import connection, errors, keys, looks
from bus.deliveries import Delivery
from bus.server import EmbeddedServer
from tests.support import chronicle
from tests.support.desk import Desk
from tests.support.keyspace import wounds

pytestmark = pytest.mark.chaos

CUTS = int(os.environ.get("MESH_CHAOS_CUTS", "40"))
STEPS = 240
SEED = chronicle.seed()
TOPIC = "cut"


@dataclass
class History:
    """A data directory, and how long its file was when each task was accepted."""

    directory: Path
    file: Path
    accepted: list[tuple[int, str]] = field(default_factory=list)


def _append_only_file(directory: Path) -> Path:
    [file] = (directory / "appendonlydir").glob("*.incr.aof")
    return file


def _one_step(
    dice: random.Random, client: redis.Redis, hands: list[tuple[Desk, Delivery]]
) -> None:
    """Any verb on anything; most meet a task that stands elsewhere by now."""
    ids: list[str] = client.hkeys(keys.named("tasks", TOPIC))  # type: ignore[assignment]
    dead = [letter.id for letter in bus.list_dead(TOPIC)]
    desk, item = dice.choice(hands) if hands else (None, None)
    verb = dice.randrange(10)
    if verb == 0 and ids:
        bus.cancel(dice.choice(ids), TOPIC)
    elif verb == 1 and dead:
        bus.replay(dice.choice(dead), TOPIC)
    elif verb == 2 and dead:
        bus.discard(dice.choice(dead), TOPIC)
    elif verb == 3:
        looks.promote(TOPIC)
    elif desk is None or item is None:
        return
    elif verb == 4:
        desk.lose()
    elif verb == 5:
        desk.release(item)
    elif verb == 6:
        desk.fail(item, delay_s=0.001, final=dice.random() < 0.5)
    elif verb == 7:
        bus.move_to_dead(TOPIC, item.sid, {"moved": item.id})
    else:
        desk.complete(item)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A mesh that lived through a few hundred transitions and was killed."""
    dice = random.Random(SEED)
    directory = tmp_path_factory.mktemp("lived")
    with pytest.MonkeyPatch.context() as patch:
        with EmbeddedServer(directory, port=0) as server:
            patch.setenv("REDIS_URL", server.url)
            client = redis.Redis.from_url(server.url, decode_responses=True)
            desks = [Desk(TOPIC, f"desk{n}#00000001") for n in range(2)]
            lived = History(directory, _append_only_file(directory))
            hands: list[tuple[Desk, Delivery]] = []
            for number in range(STEPS):
                if number % 3 == 0:
                    delay_s = dice.choice([None, None, 0.001])
                    task_id = bus.enqueue_task(TOPIC, number, delay_s=delay_s)
                    # The server writes its file before it answers.
                    lived.accepted.append((lived.file.stat().st_size, task_id))
                elif number % 3 == 1:
                    desk = dice.choice(desks)
                    hands += [(desk, item) for item in desk.claim(2)]
                else:
                    with contextlib.suppress(errors.Conflict, errors.NotFound):
                        _one_step(dice, client, hands)
            client.close()
            connection.reset()
        yield lived


def _cuts(size: int) -> list[int]:
    dice = random.Random(SEED + 1)
    return sorted(dice.randrange(size) for _ in range(CUTS)) + [size]


def test_whatever_is_left_of_the_file_is_whole(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = history.file.stat().st_size
    assert len(history.accepted) > 50 and size > 20_000
    for number, cut in enumerate(_cuts(size)):
        copy = tmp_path / f"cut-{number}"
        shutil.copytree(history.directory, copy)
        os.truncate(_append_only_file(copy), cut)
        with EmbeddedServer(copy, port=0) as server:
            monkeypatch.setenv("REDIS_URL", server.url)
            client = redis.Redis.from_url(server.url, decode_responses=True)

            assert wounds(client, TOPIC) == [], f"cut at {cut} of {size}"
            kept = [task_id for at, task_id in history.accepted if at <= cut]
            for task_id in kept:
                assert bus.get_task(task_id, TOPIC), f"{task_id} lost, cut at {cut}"

            client.close()
            connection.reset()
        shutil.rmtree(copy)
    chronicle.record(
        "S3 cuts", faults={"file cut": CUTS}, tasks=len(history.accepted), lost=0
    )
