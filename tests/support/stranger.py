"""A stranger to the mesh sends tasks, works on them, replays what died, reads it all.

It has the description of the API and a token; who lets it live through something kills
and restarts the web server meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from tests.support.described import Client, Description
from tests.support.events import Ended, Events
from tests.support.waiting import wait_until

TOPIC: Final = "strange"
_BATCH: Final = 100  # of claims and their ends
_SENT: Final = 300  # of tasks sent in one call
_AGENTS: Final = 3
_PATIENCE_S: Final = 240.0


def answer_to(task: dict[str, int]) -> dict[str, int]:
    """The work."""
    return {"square": task["n"] ** 2}


def _replayed(least: int) -> Callable[[dict[str, int]], bool]:
    return lambda counts: counts["replayed"] >= least


class Reader(threading.Thread):
    """Follows the results from the first one on, whatever becomes of the server."""

    def __init__(self, description: Description) -> None:
        super().__init__(daemon=True)
        _, path, call = description.calls["stream_results"]
        assert "Last-Event-ID" in {each["name"] for each in call["parameters"]}
        self._events = Events(
            description.url, description.token, timeout_s=5, path=path
        )
        self._ended = threading.Event()
        self.rows: list[dict[str, Any]] = []
        self.other: list[str] = []
        self.connections = 0

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                if self._events.open(topic=TOPIC, after="0-0").status == 200:
                    self.connections += 1
                    self._read()
            except (OSError, Ended):  # a timeout is one: nothing came for a while
                self._ended.wait(0.05)
            finally:
                if hasattr(self._events, "answer"):
                    self._events.close()

    def _read(self) -> None:
        while not self._ended.is_set():
            event = self._events.next()
            if event.name == "result":
                self.rows.append(event.data)
            else:
                self.other.append(event.name)

    def close(self) -> None:
        self._ended.set()
        self.join(30)


class Agent(threading.Thread):
    """Claims tasks and ends them over HTTP; some fail on purpose, the first time."""

    def __init__(
        self, description: Description, name: str, fails: Callable[[int], bool]
    ) -> None:
        super().__init__(daemon=True)
        self._description, self._me, self._fails = description, name, fails
        self._ended = threading.Event()
        self.outcomes: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._description) as client:
                self._work(client)
        except BaseException as exc:
            self.error = exc
            raise

    def close(self) -> None:
        self._ended.set()
        self.join(60)
        assert self.error is None, self.error

    def _work(self, client: Client) -> None:
        me = {"agent_id": self._me, "agent_type": "stranger", "ttl_seconds": 600}
        client.call("register_agent", me)
        while not self._ended.is_set():
            claim = {
                "agent_id": self._me,
                "count": _BATCH,
                "wait_s": 1,
                "claim_id": str(uuid.uuid4()),
            }
            lent = client.call("claim", claim, topic=TOPIC)["deliveries"]
            unlucky = [each for each in lent if self._is_unlucky(each)]
            lucky = [each for each in lent if not self._is_unlucky(each)]
            self._end(client, "complete_deliveries", lucky, self._result)
            self._end(client, "fail_deliveries", unlucky, self._failure)

    def _end(
        self,
        client: Client,
        operation: str,
        lent: list[dict[str, Any]],
        how: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        if lent:
            names = ("topic", "id", "fence")
            ends = [{**{n: each[n] for n in names}, **how(each)} for each in lent]
            rows = client.call(operation, {"deliveries": ends})["deliveries"]
            self.outcomes += [row["outcome"] for row in rows]

    def _is_unlucky(self, delivery: dict[str, Any]) -> bool:
        return delivery["epoch"] == 0 and self._fails(delivery["task"]["n"])

    def _result(self, delivery: dict[str, Any]) -> dict[str, Any]:
        return {"result": answer_to(delivery["task"])}

    def _failure(self, delivery: dict[str, Any]) -> dict[str, Any]:
        said = f"number {delivery['task']['n']} is unlucky"
        return {"error": {"type": "Unlucky", "message": said}, "final": True}


class Life:
    """What the stranger does, step by step; `disturb` is called within each."""

    def __init__(self, url: str, token: str, tasks: int, failures: int) -> None:
        self._tasks, self._failures = tasks, failures
        self._every = tasks // failures
        self._description = Description(url, token)
        self.client = Client(self._description)
        self.reader = Reader(self._description)
        self.agents = [
            Agent(self._description, f"stranger-{n}", self._fails)
            for n in range(_AGENTS)
        ]

    def __enter__(self) -> Life:
        for thread in (self.reader, *self.agents):
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.reader.close()
        for agent in self.agents:
            agent.close()
        self.client.__exit__()

    def _fails(self, n: int) -> bool:
        return n % self._every == 0 and n < self._every * self._failures

    def sends(self, disturb: Callable[[], object]) -> list[str]:
        """The ids of all tasks, sent in batches that are named; disturbed half-way."""
        ids = []
        for start in range(0, self._tasks, _SENT):
            numbers = range(start, min(start + _SENT, self._tasks))
            body = {"tasks": [{"topic": TOPIC, "task": {"n": n}} for n in numbers]}
            rows = self.client.call("enqueue_batch", body, key=f"batch {start}")
            assert {row["status"] for row in rows["results"]} <= {200, 201}
            ids += [row["id"] for row in rows["results"]]
            if self._tasks // 2 in numbers:
                disturb()
        return ids

    def reads(self, count: int) -> None:
        """Until so many results have come."""
        self._until(lambda: len(self.reader.rows) >= count)

    def _until(self, over: Callable[[], bool]) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not over():
            for agent in self.agents:
                assert agent.error is None, agent.error
            assert time.monotonic() < until, f"{len(self.reader.rows)} results came"
            time.sleep(0.02)

    def looks_at_what_died(self) -> dict[str, Any]:
        """The one group of failures."""

        def groups() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.client.call(
                "list_dead_groups", topic=TOPIC
            )["groups"]
            return found if found and found[0]["count"] == self._failures else []

        [group] = wait_until(groups, 60)
        return group

    def replays(self, group: dict[str, Any], disturb: Callable[[], object]) -> Any:
        """The bulk replay when it is done; disturbed in two of its steps."""
        wanted = {
            "topics": [TOPIC],
            "group": group["fingerprint"],
            "canary": True,
            "rate": 3,  # so slow that there is much to do yet when it is disturbed
        }
        shown = self.client.call("create_replay", {**wanted, "dry_run": True})
        assert shown["total"] == self._failures
        job = self.client.call("create_replay", wanted, key="the unlucky")
        for replayed in (1, 12):
            job = self._followed(job, _replayed(replayed))
            assert (job["state"], job["counts"]["todo"] > 0) == ("running", True), job
            disturb()
        again = self.client.call("create_replay", wanted, key="the unlucky")
        assert again["id"] == job["id"]
        return self._followed(job, lambda now: now["todo"] == now["open"] == 0, "done")

    def _followed(
        self,
        job: dict[str, Any],
        far_enough: Callable[[dict[str, int]], bool],
        state: str = "",
    ) -> dict[str, Any]:
        now = job

        def over() -> bool:
            nonlocal now
            now = self.client.call("get_replay", job_id=job["id"])
            return far_enough(now["counts"]) and now["state"] == (state or now["state"])

        self._until(over)
        return now
