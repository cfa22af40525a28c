"""Two web processes on one mesh are one API: what one did, the other knows."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from bus.home import web
from tests.integration.test_serving import free_port, signed_in
from tests.support.api import ROOT
from tests.support.events import Events
from tests.support.mesh import BANNER_END, environment, read_until, up
from tests.support.processes import ROOT as FOLDER
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

FEW = 120  # calls a minute, of either class: tests.support.few_calls
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.support.few_calls"}
LONG_S = 25  # a call that waits; whoever is woken answers long before


class Place(NamedTuple):
    """One of the web processes, asked as one principal."""

    url: str
    token: str
    http: httpx2.Client

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
        """One call; paths are below /api/v1/mesh/."""
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        url = f"{self.url}{ROOT}/{path}"
        return self.http.request(method, url, headers=headers, **more)

    def post(self, path: str, body: Any = None, key: str = "") -> Any:
        """The JSON of an answer that must be a success."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.ask(path, "POST", json=body or {}, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def acting_for(self, token: str) -> Place:
        return self._replace(token=token)


@contextmanager
def second_web(var_dir: Path) -> Iterator[str]:
    """Another `manage.py web` in the folder of a mesh that runs; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "manage.py", "web", "--port", str(port)],
        cwd=FOLDER,
        env=environment(var_dir, **SETTINGS),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or web.answers(url), 60)
        assert process.poll() is None, "the second web process ended"
        yield url
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state of a mesh without agents that runs while this module does."""
    var_dir = tmp_path_factory.mktemp("two")
    with up(var_dir, "--agents", "0", **SETTINGS) as mesh:
        read_until(mesh, BANNER_END)
        yield var_dir


@pytest.fixture(scope="module")
def doors(folder: Path) -> Iterator[tuple[Place, Place]]:
    """The same administrator at both."""
    kept = json.loads((folder / "credentials.json").read_text())
    with second_web(folder) as other, httpx2.Client(timeout=LONG_S + 20) as http:
        urls = (kept["url"].rstrip("/"), other)
        one, two = (Place(url, kept["token"], http) for url in urls)
        yield one, two


numbers = itertools.count()


@pytest.fixture
def pair(doors: tuple[Place, Place]) -> tuple[Place, Place]:
    """Both, with an admin's token of this test alone: its calls are its own."""
    one, two = doors
    text = one.post("tokens", {"name": f"two-{next(numbers)}", "role": "admin"})
    return one.acting_for(text["token"]), two.acting_for(text["token"])


@pytest.fixture
def topic() -> str:
    return f"two-{next(numbers)}"


def held(place: Place, topic: str, agent_id: str) -> dict[str, Any]:
    """A task that this agent has claimed there."""
    place.post("agents", {"agent_id": agent_id, "agent_type": "test"})
    [delivery] = place.post(f"topics/{topic}/claim", {"agent_id": agent_id})[
        "deliveries"
    ]
    return {name: delivery[name] for name in ("topic", "id", "fence")}


def dead(place: Place, topic: str, count: int) -> None:
    """So many dead letters."""
    tasks = [{"topic": topic, "task": n} for n in range(count)]
    place.post("enqueue/batch", {"tasks": tasks})
    place.post("agents", {"agent_id": f"a-{topic}", "agent_type": "test"})
    asked = {"agent_id": f"a-{topic}", "count": count}
    lent = place.post(f"topics/{topic}/claim", asked)["deliveries"]
    error = {"error": {"type": "No", "message": "on purpose"}, "final": True}
    ends = [{name: each[name] for name in ("topic", "id", "fence")} for each in lent]
    place.post("deliveries/fail", {"deliveries": [{**each, **error} for each in ends]})


def complete(place: Place, delivery: dict[str, Any], result: Any) -> str:
    done = place.post(
        "deliveries/complete", {"deliveries": [{**delivery, "result": result}]}
    )
    return str(done["deliveries"][0]["outcome"])


@contextmanager
def meanwhile() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as other:
        yield other


def test_what_is_sent_to_one_is_read_at_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    for here, there in (pair, pair[::-1]):
        sent = here.post("enqueue", {"topic": topic, "task": {"n": 1}})
        found = there.get(f"tasks/{sent['id']}", topic=topic)
        assert (found["state"], found["task"]) == ("waiting", {"n": 1})

    assert one.get(f"topics/{topic}")["waiting"] == 2
    assert two.get(f"topics/{topic}")["waiting"] == 2


READS = (
    *("topics", "topics/{t}", "tasks?topic={t}", "results?topic={t}", "agents"),
    *(
        "dead?topic={t}",
        "dead/groups?topic={t}",
        "replays",
        "tokens",
        "audit",
        "schema",
    ),
)


def test_both_give_the_same_answers(pair: tuple[Place, Place], topic: str) -> None:
    one, two = pair
    dead(one, topic, 3)
    one.post("replays", {"topics": [topic], "start": False})
    two.post("enqueue", {"topic": topic, "task": 1, "delay_s": 600})

    for path in (each.format(t=topic) for each in READS):
        answers = [place.ask(path) for place in (one, two, one)]

        assert [answer.status_code for answer in answers] == [200] * 3, path
        bodies = [still(answer.json()) for answer in answers]
        # What moves on by itself between two answers of one process is no difference.
        assert bodies[1] in (bodies[0], bodies[2]), path


def still(value: Any) -> Any:
    """Without ages and rates, which are of the moment."""
    if isinstance(value, dict):
        return {k: still(v) for k, v in value.items() if k not in MOVING}
    return [still(each) for each in value] if isinstance(value, list) else value


MOVING = {
    *("oldest_s", "rates", "percentiles", "expires_in_s", "last_beat_s", "used_at"),
    "explain",
}


def test_a_key_that_one_has_seen_is_known_to_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    body = {"topic": topic, "task": {"n": 1}}
    batch = {"tasks": [body, {**body, "task": 2}]}
    first = one.ask("enqueue", "POST", json=body, headers={"Idempotency-Key": "k"})
    again = two.ask("enqueue", "POST", json=body, headers={"Idempotency-Key": "k"})
    other = two.ask(
        *("enqueue", "POST"),
        json={**body, "task": 3},
        headers={"Idempotency-Key": "k"},
    )

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (409, "task_conflict")
    ids = [
        [row["id"] for row in place.post("enqueue/batch", batch, "b")["results"]]
        for place in (one, two)
    ]
    assert ids[0] == ids[1]
    assert one.get(f"topics/{topic}")["waiting"] == 3


def test_a_bulk_replay_is_made_once_at_both(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    dead(one, topic, 3)
    body = {"topics": [topic], "start": False}

    jobs = [place.post("replays", body, "r") for place in (one, two)]

    assert jobs[0]["id"] == jobs[1]["id"]
    assert [job["id"] for job in two.get("replays")["replays"]].count(
        jobs[0]["id"]
    ) == 1


@pytest.mark.parametrize("path", ["topics", "agents/nobody/heartbeat"])
def test_a_token_that_is_revoked_at_one_is_refused_at_the_other(
    pair: tuple[Place, Place], path: str
) -> None:
    """Five seconds after the answer at the latest, through either door of the API."""
    one, two = pair
    name = f"goes-{next(numbers)}"
    made = one.post("tokens", {"name": name, "role": "admin"})
    method = "GET" if path == "topics" else "POST"
    theirs = two.acting_for(made["token"])
    assert theirs.ask(path, method, json={}).status_code != 401

    assert one.ask(f"tokens/{made['key']}", "DELETE").status_code == 204
    over = time.monotonic() + 5

    # Not asked meanwhile: its calls are few, and a 429 would prove nothing.
    wait_until(lambda: time.monotonic() > over, 10)
    late = theirs.ask(path, method, json={})
    here = one.acting_for(made["token"]).ask(path, method, json={})
    assert (late.status_code, here.status_code) == (401, 401)


@pytest.mark.parametrize("path", ["topics", "agents/nobody/heartbeat"])
def test_calls_are_counted_over_both_and_per_class(
    doors: tuple[Place, Place], pair: tuple[Place, Place], path: str
) -> None:
    one, _ = doors
    name = f"busy-{next(numbers)}"
    token = one.post("tokens", {"name": name, "role": "admin"})["token"]
    busy = [place.acting_for(token) for place in pair]
    method = "GET" if path == "topics" else "POST"
    began, taken = time.monotonic(), 0

    for place in itertools.cycle(busy):
        answer = place.ask(path, method, json={})
        if answer.status_code == 429:
            break
        taken += 1
        assert taken < 10 * FEW

    # They flow back all the time, so a slow machine gets some more.
    flowed = (time.monotonic() - began) * FEW / 60
    assert FEW <= taken <= FEW + flowed + 1
    # The other class has its own, and so have others' tokens.
    kinds = {"topics": "agents/nobody/heartbeat"}
    other = kinds.get(path, "topics")
    how = "GET" if other == "topics" else "POST"
    assert busy[1].ask(other, how, json={}).status_code != 429
    assert pair[1].ask(path, method, json={}).status_code != 429


def test_a_lease_taken_at_one_is_kept_and_ended_at_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    sent = one.post("enqueue", {"topic": topic, "task": 1})
    one.post("agents", {"agent_id": f"a-{topic}", "agent_type": "test"})
    claim = {"agent_id": f"a-{topic}", "claim_id": "c-1"}

    lent = one.post(f"topics/{topic}/claim", claim)["deliveries"]
    again = two.post(f"topics/{topic}/claim", claim)["deliveries"]
    mine = {name: lent[0][name] for name in ("topic", "id", "fence")}
    beat = two.post(f"agents/a-{topic}/heartbeat", {"deliveries": [mine]})
    outcomes = [complete(place, mine, "ok") for place in (two, one)]

    assert [each["fence"] for each in again] == [mine["fence"]]
    assert beat["deliveries"][0]["outcome"] == "ok"
    assert outcomes == ["ok", "duplicate"]
    assert one.get(f"tasks/{sent['id']}", topic=topic)["result"] == "ok"


def woken(waiting: Future[Any], began: float) -> Any:
    """The answer of a call that waited; one that was not woken waits its time out."""
    answer = waiting.result(LONG_S + 20)
    assert time.monotonic() - began < LONG_S, "nobody woke it"
    return answer


def test_who_waits_for_an_end_at_one_is_woken_from_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    for n, (here, there) in enumerate((pair, pair[::-1])):
        sent = here.post("enqueue", {"topic": topic, "task": n})
        mine = held(there, topic, f"a-{topic}")
        with meanwhile() as other:
            began = time.monotonic()
            path = f"tasks/{sent['id']}"
            waiting = other.submit(here.get, path, topic=topic, wait=LONG_S)
            complete(there, mine, {"n": n})

            assert woken(waiting, began)["result"] == {"n": n}


def test_a_claim_that_waits_at_one_is_woken_from_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    for here, there in (pair, pair[::-1]):
        agent_id = f"a-{next(numbers)}"
        here.post("agents", {"agent_id": agent_id, "agent_type": "test"})
        with meanwhile() as other:
            began = time.monotonic()
            claim = {"agent_id": agent_id, "wait_s": LONG_S}
            waiting = other.submit(here.post, f"topics/{topic}/claim", claim)
            sent = there.post("enqueue", {"topic": topic, "task": 1})

            lent = woken(waiting, began)["deliveries"]
            assert [each["id"] for each in lent] == [sent["id"]]


def test_a_stream_of_results_goes_on_at_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    agent_id = f"a-{topic}"

    counted = itertools.count()

    def done() -> None:
        """One more: sent to one, claimed at the other, ended at the first."""
        n = next(counted)
        here, there = (one, two) if n % 2 else (two, one)
        here.post("enqueue", {"topic": topic, "task": n})
        complete(here, held(there, topic, agent_id), n)

    done()
    seen: list[int] = []
    last_id = ""
    for place in (one, two, one):
        with Events(place.url, place.token, timeout_s=30) as events:
            events.last_id = last_id
            events.open(topic=topic, after="0-0")
            done()
            seen += [events.next("result").data["result"] for _ in range(2)]
            last_id = events.last_id
        done()

    assert seen == list(range(6))


def test_a_bulk_replay_of_one_is_steered_by_the_other(
    pair: tuple[Place, Place], topic: str
) -> None:
    one, two = pair
    dead(one, topic, 20)
    job = one.post("replays", {"topics": [topic], "rate": 0.1})

    paused = two.post(f"replays/{job['id']}/pause")
    resumed = one.post(f"replays/{job['id']}/resume")
    ended = two.ask(f"replays/{job['id']}", "DELETE")

    states = (job["state"], paused["state"], resumed["state"])
    assert states == ("running", "paused", "running")
    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    assert one.get(f"replays/{job['id']}")["state"] == "cancelled"
    assert one.get(f"topics/{topic}")["dead"] >= 15


def test_who_signed_in_at_one_is_known_to_the_other(
    doors: tuple[Place, Place], folder: Path
) -> None:
    kept = json.loads((folder / "credentials.json").read_text())
    with httpx2.Client(timeout=60) as browser:
        signed_in(browser, {**kept, "url": doors[0].url})

        pages = [browser.get(f"{place.url}/topics/") for place in doors]

        assert [page.status_code for page in pages] == [200, 200]
