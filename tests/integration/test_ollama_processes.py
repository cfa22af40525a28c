"""Two web servers are one gateway: equal requests share a call, limits are one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx2
import pytest
import redis

from tests.integration.test_serving import signed_in
from tests.support.gateway import PATH, GatewayClient
from tests.support.ollama_stub import (
    LOOKS,
    Call,
    Gate,
    Later,
    OllamaStub,
    like_ollama,
    refusing,
    saying,
    stalling_after,
)
from tests.support.sites import Folder, Site
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cleanup_test_data")]

PATIENCE_S = 30
ASK = {"prompt": "Why is the sky blue?"}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, mesh_server: Any
) -> Iterator[Folder]:
    """What the web servers of this file share."""
    yield Folder(tmp_path_factory.mktemp("sites"), mesh_server.url)


@pytest.fixture(scope="module")
def model() -> Iterator[OllamaStub]:
    """The scripted model server behind all of them."""
    with OllamaStub() as stub:
        yield stub


@pytest.fixture(scope="module")
def both(folder: Folder, model: OllamaStub) -> Iterator[list[Site]]:
    """Two web servers with wide limits."""
    wide = {"OLLAMA_RATE_CAPACITY": "10000", "OLLAMA_BASE_URL": model.url}
    with folder.sites(2, **wide) as sites:
        yield sites


@pytest.fixture
def calling(
    both: list[Site], folder: Folder, model: OllamaStub, redis_client: redis.Redis
) -> Iterator[list[GatewayClient]]:
    """A client of each, with one token."""
    model.calls.clear()
    clients = [GatewayClient(site.url, folder.token) for site in both]
    for each in clients:
        each.http.timeout = httpx2.Timeout(PATIENCE_S)
    yield clients
    for each in clients:
        each.http.close()


def _asked(client: GatewayClient, stream: bool) -> tuple[str, str]:
    """X-Cache and the text of an answer, whichever way it came."""
    if not stream:
        answer = client.ask(ASK)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Cache"], answer.json()["response"]
    with closing(client.open(ASK)) as answer:
        assert answer.status_code == 200, answer.read()
        pieces = [json.loads(line) for line in answer.iter_lines()]
        assert pieces[-1]["done"] is True
        text = "".join(piece["response"] for piece in pieces)
        return answer.headers["X-Cache"], text


def test_fifty_equal_requests_in_two_processes_cause_one_call(
    calling: list[GatewayClient], model: OllamaStub
) -> None:
    gate = model.script = Gate(["It", " scatters", " blue"])
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(_asked, calling[n % 2], n % 3 == 0) for n in range(50)]
        wait_until(lambda: model.calls, PATIENCE_S)
        gate.open(3)
        answers = [each.result(PATIENCE_S) for each in asked]

    assert len(model.calls) == 1
    assert {text for _, text in answers} == {"It scatters blue"}
    states = Counter(how for how, _ in answers)
    assert states["MISS"] == 1
    assert set(states) <= {"MISS", "JOIN", "HIT"}


def test_who_follows_elsewhere_gets_each_line_as_it_is_made(
    calling: list[GatewayClient], model: OllamaStub
) -> None:
    gate = model.script = Gate(["one", "two", "three"])
    with ThreadPoolExecutor(2) as threads:
        leading = threads.submit(calling[0].open, ASK)
        wait_until(lambda: model.calls, PATIENCE_S)
        gate.open()
        with closing(leading.result(PATIENCE_S)) as led:
            with closing(calling[1].open(ASK)) as followed:
                lines = followed.iter_lines()

                assert json.loads(next(lines))["response"] == "one"
                gate.open()
                assert json.loads(next(lines))["response"] == "two"
                gate.open()
                rest = list(lines)
            assert list(led.iter_lines())[2:] == rest
            states = [led.headers["X-Cache"], followed.headers["X-Cache"]]

    assert states == ["MISS", "JOIN"]
    assert len(model.calls) == 1


def test_the_call_goes_on_for_a_follower_and_ends_with_the_last(
    calling: list[GatewayClient], model: OllamaStub
) -> None:
    gate = model.script = Gate(["one", "two", "three"])
    with ThreadPoolExecutor(2) as threads:
        leading = threads.submit(calling[0].open, ASK)
        wait_until(lambda: model.calls, PATIENCE_S)
        gate.open()
        led = leading.result(PATIENCE_S)
        with closing(calling[1].open(ASK)) as followed:
            lines = followed.iter_lines()
            next(lines)
            led.close()
            gate.open()
            assert json.loads(next(lines))["response"] == "two"
            assert not model.calls[0].gone

    wait_until(lambda: model.calls[0].gone, PATIENCE_S)
    model.script = saying("another")
    assert _asked(calling[1], stream=False) == ("MISS", "another")


@pytest.mark.parametrize(
    ("script", "status"), [(refusing(404, "no"), 404), (refusing(503, "busy"), 503)]
)
def test_who_follows_hears_of_the_fault_as_well(
    script: Callable[..., Any],
    status: int,
    calling: list[GatewayClient],
    model: OllamaStub,
    redis_client: redis.Redis,
) -> None:
    later = model.script = Later(script)
    with ThreadPoolExecutor(2) as threads:
        leading = threads.submit(calling[0].ask, ASK)
        wait_until(lambda: model.calls, PATIENCE_S)
        following = threads.submit(calling[1].ask, ASK)
        wait_until(lambda: _is_followed(redis_client), PATIENCE_S)
        later.open()
        answers = [leading.result(PATIENCE_S), following.result(PATIENCE_S)]

    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].json() == answers[1].json()
    assert len(model.calls) == 1


def _is_followed(client: redis.Redis) -> bool:
    [flight] = [
        key for key in client.scan_iter("mesh:flight:*") if client.type(key) == "hash"
    ]
    return bool(client.hexists(flight, "followed"))


def test_who_follows_a_process_that_is_killed_takes_over(
    folder: Folder, model: OllamaStub, redis_client: redis.Redis
) -> None:
    model.calls.clear()
    model.script = stalling_after("half of")
    with (
        folder.sites(2, OLLAMA_BASE_URL=model.url) as (dying, living),
        closing(GatewayClient(dying.url, folder.token).http) as one,
        closing(GatewayClient(living.url, folder.token).http) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        one.timeout = other.timeout = httpx2.Timeout(PATIENCE_S)
        led = threads.submit(one.post, PATH, json=ASK)
        wait_until(lambda: model.calls, PATIENCE_S)
        followed = threads.submit(other.post, PATH, json=ASK)
        wait_until(lambda: _is_followed(redis_client), PATIENCE_S)
        model.script = saying("all of it")

        dying.process.kill()

        answer = followed.result(PATIENCE_S)
        with pytest.raises(httpx2.TransportError):
            led.result(PATIENCE_S)
    assert (answer.status_code, answer.json()["response"]) == (200, "all of it")
    assert len(model.calls) == 2


def test_of_a_hundred_callers_at_capacity_ten_ten_pass(
    folder: Folder, model: OllamaStub, redis_client: redis.Redis
) -> None:
    model.calls.clear()
    model.script = saying("yes")
    slow = {"OLLAMA_RATE_CAPACITY": "10", "OLLAMA_RATE_REFILL_PER_S": "0.0001"}
    with folder.sites(2, OLLAMA_BASE_URL=model.url, **slow) as sites:
        clients = [GatewayClient(site.url, folder.token) for site in sites]

        def ask(n: int) -> int:
            body = {"prompt": f"question {n}"}
            return clients[n % 2].http.post(PATH, json=body, timeout=60).status_code

        with ThreadPoolExecutor(100) as threads:
            statuses = Counter(threads.map(ask, range(100)))
        for each in clients:
            each.http.close()

    assert statuses == {200: 10, 429: 90}
    assert len(model.calls) == 10


async def _stalling(call: Call) -> None:
    """Looks are answered; a generation begins and never goes on."""
    await (like_ollama if call.path in LOOKS else stalling_after("one"))(call)


def test_what_one_process_generates_is_ended_on_the_page_of_the_other(
    calling: list[GatewayClient], both: list[Site], folder: Folder, model: OllamaStub
) -> None:
    model.script = _stalling
    url = both[1].url
    with (
        closing(calling[0].open(ASK)) as led,
        closing(calling[1].open(ASK)) as followed,
        httpx2.Client(timeout=PATIENCE_S, trust_env=False) as browser,
    ):
        read = [answer.iter_lines() for answer in (led, followed)]
        assert [json.loads(next(lines))["response"] for lines in read] == ["one"] * 2
        signed_in(browser, {**folder.signing_in, "url": url})

        path, token = wait_until(lambda: _form(browser, url), PATIENCE_S)
        clicked = browser.post(
            f"{url}{path}",
            data={"csrfmiddlewaretoken": token},
            headers={"Origin": url},
        )
        rest = [list(lines) for lines in read]

    assert clicked.status_code == 303, clicked.text
    told = {"error": "an operator ended the generation"}
    assert [[json.loads(line) for line in lines] for lines in rest] == [[told]] * 2
    generations = [call for call in model.calls if call.path not in LOOKS]
    assert len(generations) == 1
    wait_until(lambda: generations[0].gone, PATIENCE_S)


def _form(browser: httpx2.Client, url: str) -> tuple[str, ...]:
    """Where the button posts that ends what runs, and its token; empty without one."""
    page = browser.get(f"{url}/ollama/").text
    button = re.search(r'action="(/ollama/generations/\w+/end)"', page)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    return (button[1], token[1]) if button and token else ()
