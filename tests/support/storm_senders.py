"""Who uses the mesh in a storm: senders behind both doors, and impatient operators.

Senders remember what they were told of each task. Everything is sent two to five times,
through either door, as by clients that had no answer or did not wait for it.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx2

import bus
from bus import errors, tasks
from tests.support.storm import SHARES, TOPIC, Web

ANSWER_S: Final = 60.0  # how long a sender repeats what was not answered
NEW, KNOWN, REFUSED, SILENT = "new", "known", "refused", "silent"


@dataclass(frozen=True)
class Sent:
    """One task as its sender knows it."""

    id: str
    kind: str
    payload: dict[str, Any]
    delay_s: float | None


class Direct:
    """The door of Python code."""

    def send(self, batch: list[Sent]) -> list[str]:
        """One word per task."""
        wanted = [
            tasks.Wanted(one.payload, task_id=one.id, delay_s=one.delay_s)
            for one in batch
        ]
        try:
            outcomes = tasks.accept(TOPIC, wanted)
        except errors.BusUnavailable:  # of the topic: its name could not be noted
            return [SILENT] * len(batch)
        return [self._word(outcome) for outcome in outcomes]

    @staticmethod
    def _word(outcome: tasks.Accepted) -> str:
        if isinstance(outcome.error, errors.BusUnavailable):
            return SILENT
        if outcome.error is not None:
            return REFUSED
        return NEW if outcome.new else KNOWN

    def close(self) -> None:
        """Connections are the process's."""


class Rest:
    """The door of everybody else."""

    _WORDS: Final = {201: NEW, 200: KNOWN, 503: SILENT}

    def __init__(self, web: Web) -> None:
        self._http = httpx2.Client(
            base_url=f"{web.url}/api/v1/mesh/",
            headers={"Authorization": f"Bearer {web.token}"},
            timeout=12,
        )
        self.statuses: Counter[int] = Counter()

    def send(self, batch: list[Sent]) -> list[str]:
        """One word per task."""
        bodies = [self._body(one) for one in batch]
        try:
            if len(bodies) == 1:
                statuses = [self._http.post("enqueue", json=bodies[0]).status_code]
            else:
                reply = self._http.post("enqueue/batch", json={"tasks": bodies})
                self.statuses[reply.status_code] += 1
                if reply.status_code != 200:
                    return [self._WORDS.get(reply.status_code, REFUSED)] * len(bodies)
                statuses = [row["status"] for row in reply.json()["results"]]
        except httpx2.HTTPError:
            return [SILENT] * len(bodies)
        self.statuses.update(statuses)
        return [self._WORDS.get(status, REFUSED) for status in statuses]

    @staticmethod
    def _body(one: Sent) -> dict[str, Any]:
        body = {"topic": TOPIC, "task": one.payload, "id": one.id}
        return body if one.delay_s is None else {**body, "delay_s": one.delay_s}

    def close(self) -> None:
        self._http.close()


class Senders:
    """Two threads per door that send all tasks, and one that sends them again."""

    def __init__(
        self, web: Web, count: int, poison: int, seed: int, lasting_s: float
    ) -> None:
        self.accepted: dict[str, str] = {}  # id -> kind
        self.unknown: dict[str, str] = {}
        self.refused: list[str] = []
        self.to_cancel: list[str] = []
        self.sends = 0
        self._doors: list[Direct | Rest] = [Direct(), Direct(), Rest(web), Rest(web)]
        self._echo_doors: list[Direct | Rest] = [Direct(), Rest(web)]
        self._pace_s = lasting_s * len(self._doors) / count
        self._again: list[tuple[float, int, list[Sent]]] = []  # when, tie-breaker
        self._lock = threading.Lock()
        dice = random.Random(seed)
        deck = _deck(count, poison, dice)
        share = -(-count // len(self._doors))
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(door, deck[n * share : (n + 1) * share], random.Random(seed + n)),
            )
            for n, door in enumerate(self._doors)
        ]
        self._echo = threading.Thread(target=self._repeat, args=(random.Random(~seed),))

    def start(self) -> None:
        """Begin to send."""
        for thread in [*self._threads, self._echo]:
            thread.start()

    def busy(self) -> bool:
        """Whether somebody still sends for the first time."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all is sent, also for the last time."""
        for thread in [*self._threads, self._echo]:
            thread.join()
        for door in [*self._doors, *self._echo_doors]:
            door.close()

    def statuses(self) -> Counter[int]:
        """What the REST API answered."""
        doors = [*self._doors, *self._echo_doors]
        found = (door.statuses for door in doors if isinstance(door, Rest))
        return sum(found, Counter())

    def _run(self, door: Direct | Rest, deck: list[Sent], dice: random.Random) -> None:
        while deck:
            size = dice.choice([1, 1, 20])
            batch, deck = deck[:size], deck[size:]
            # Some clients end before they know; the others ask until they do.
            self._send(door, batch, patient=dice.random() < 0.8)
            self._plan(batch, dice.randint(1, 4), dice)
            time.sleep(self._pace_s * len(batch))

    def _plan(self, batch: list[Sent], times: int, dice: random.Random) -> None:
        now = time.monotonic()
        with self._lock:
            for _ in range(times):
                at = now + dice.choice([0, dice.uniform(0, 4)])
                heapq.heappush(self._again, (at, dice.getrandbits(60), batch))

    def _repeat(self, dice: random.Random) -> None:
        while self.busy() or self._again:
            with self._lock:
                due = self._again and self._again[0][0] <= time.monotonic()
                batch = heapq.heappop(self._again)[2] if due else None
            if batch is None:
                time.sleep(0.005)
            else:
                self._send(dice.choice(self._echo_doors), batch, patient=False)

    def _send(self, door: Direct | Rest, batch: list[Sent], patient: bool) -> None:
        until = time.monotonic() + (ANSWER_S if patient else 0)
        while batch:
            words = door.send(batch)
            silent = []
            with self._lock:
                self.sends += len(batch)
                for one, word in zip(batch, words, strict=True):
                    self._learn(one, word)
                    silent += [one] if word == SILENT else []
            if time.monotonic() > until:
                return
            batch = silent
            time.sleep(0.05 if silent else 0)

    def _learn(self, one: Sent, word: str) -> None:
        if word == REFUSED:
            self.refused.append(one.id)
        elif word == SILENT:
            if one.id not in self.accepted:
                self.unknown[one.id] = one.kind
        elif one.id not in self.accepted:
            self.unknown.pop(one.id, None)
            self.accepted[one.id] = one.kind
            if one.kind == "withdrawn":
                self.to_cancel.append(one.id)


def _deck(count: int, poison: int, dice: random.Random) -> list[Sent]:
    """All tasks of a storm, shuffled; poison comes early, since it takes its time."""
    kinds = dice.choices([*SHARES], [*SHARES.values()], k=count - poison)
    for _ in range(poison):
        kinds.insert(dice.randrange(len(kinds) // 2), "poison")
    return [
        Sent(
            tasks.new_id(),
            kind,
            {"kind": kind, "ms": dice.randint(0, 80), "n": number},
            _delay_s(kind, dice),
        )
        for number, kind in enumerate(kinds)
    ]


def _delay_s(kind: str, dice: random.Random) -> float | None:
    if kind == "later":
        return dice.uniform(0.05, 3)
    return dice.choice([None, 30]) if kind == "withdrawn" else None


class Operators:
    """Cancel what was withdrawn; replay dead letters, three of them each at once."""

    def __init__(self, senders: Senders) -> None:
        self.replays: Counter[tuple[str, int]] = Counter()  # known to have succeeded
        self.cancelled: set[str] = set()  # told: it will not run
        self.missing: list[str] = []  # accepted, and then nobody knew it
        self._senders = senders
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Go to work."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the letters at hand."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(3) as hands:
            while not self._over.wait(0.1):
                self._cancel()
                with contextlib.suppress(errors.BusUnavailable):
                    seconds = [
                        letter
                        for letter in bus.list_dead(TOPIC, 200)
                        if letter.payload["kind"] == "second"
                    ]
                    list(hands.map(self._replay, seconds * 3))

    def _replay(self, letter: Any) -> None:
        with contextlib.suppress(
            errors.Conflict, errors.NotFound, errors.BusUnavailable
        ):
            bus.replay(letter.id, TOPIC, entry_id=letter.entry_id)
            self.replays[letter.id, letter.epoch] += 1

    def _cancel(self) -> None:
        waiting = self._senders.to_cancel
        while waiting:
            task_id = waiting[0]
            try:
                if bus.cancel(task_id, TOPIC) == "cancelled":
                    self.cancelled.add(task_id)
            except errors.NotCancellable:
                pass  # done: the sender was too late
            except errors.TaskNotFound:
                self.missing.append(task_id)
            except errors.BusUnavailable:
                return  # again later
            waiting.pop(0)
