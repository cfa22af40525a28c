"""A generation as a task: retried while the server fails, replayed once it can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

import bus
from examples.ollama_agent.agents import generate
from tests.support import agents
from tests.support.ollama_stub import Call, OllamaStub, refusing, saying
from tests.support.waiting import wait_until

PATIENCE_S = 30


@pytest.fixture
def serving(
    test_topic: str, upstream: OllamaStub, redis_client: redis.Redis
) -> Iterator[str]:
    """A topic whose agent asks the scripted model server."""
    with agents.running(test_topic, generate, max_attempts=3, backoff_s=0.01):
        yield test_topic


def _ended(topic: str, task_id: str) -> bus.Task:
    return wait_until(
        lambda: (task := bus.get_task(task_id, topic)).ended and task, PATIENCE_S
    )


def test_a_generation_runs_as_a_task(serving: str, upstream: OllamaStub) -> None:
    task_id = bus.enqueue_task(serving, {"prompt": "Why?", "options": {"seed": 1}})

    result = bus.wait_result(task_id, serving, timeout_s=PATIENCE_S)

    assert result.result["response"] == "Hello, world"
    assert upstream.calls[0].body["options"] == {"seed": 1}


def test_a_server_that_fails_is_asked_again(serving: str, upstream: OllamaStub) -> None:
    async def second_time_lucky(call: Call) -> None:
        lucky = len(upstream.calls) > 1
        await (saying("at last") if lucky else refusing(500, "no"))(call)

    upstream.script = second_time_lucky

    task_id = bus.enqueue_task(serving, {"prompt": "Why?"})

    assert _ended(serving, task_id).state == "done"
    assert len(upstream.calls) == 2


def test_a_model_that_is_missing_is_a_dead_letter_until_it_is_there(
    serving: str, upstream: OllamaStub
) -> None:
    upstream.script = refusing(404, "no such model")
    task_id = bus.enqueue_task(serving, {"prompt": "Why?", "model": "tiny"})

    assert _ended(serving, task_id).state == "dead"
    assert "model 'tiny' not found" in str(bus.get_dead(task_id, serving).error)
    assert len(upstream.calls) == 1, "no attempt helps"

    upstream.script = saying("it is here")
    bus.replay(task_id, serving)
    wait_until(lambda: bus.get_task(task_id, serving).state == "done", PATIENCE_S)
    assert bus.wait_result(task_id, serving).result["response"] == "it is here"


def test_what_is_no_prompt_is_a_dead_letter(serving: str, upstream: OllamaStub) -> None:
    task_id = bus.enqueue_task(serving, {"prompt": "Why?", "host": "evil"})

    assert _ended(serving, task_id).state == "dead"
    assert upstream.calls == []
