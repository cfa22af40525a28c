"""Every call of the API, tried by schemathesis against its own description.

CI tries the examples of the description and the same two more of each call, `make
schema` some 200 of each, the edges of every field and chains of calls. What is left
out, and why, stands in schemathesis.toml.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

import bus
from bus.api.views.docs import description
from tests.support import machine
from tests.support.desk import Desk
from tests.support.ollama_stub import OllamaStub
from tests.support.site import LiveSite

HERE = Path(__file__).resolve().parent
EXAMPLES = os.environ.get("MESH_SCHEMA_EXAMPLES")  # of each call; CI has time for few
LIMIT_S = 7_200 if EXAMPLES else 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not importlib.util.find_spec("schemathesis") and not machine.IN_CI,
        reason="schemathesis comes with tests/requirements.txt",
    ),
]


@pytest.fixture
def furnished(redis_client: redis.Redis) -> None:
    """Something of everything that a call could find."""
    bus.enqueue_many("tried", range(4))
    desk = Desk("tried")
    done, dead, *_ = desk.claim(3)
    desk.complete(done)
    desk.fail(dead, final=True)
    bus.enqueue_task("tried", 1, delay_s=3_600)
    bus.register_agent("tried", "by hand", 3_600)


@pytest.mark.timeout(LIMIT_S + 20)
def test_every_call_is_what_it_says(
    site: LiveSite,
    tokens: dict[str, str],
    furnished: None,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)  # else a line for each of thousands of refusals
    settings.MESH_API_CALLS_PER_MINUTE = settings.MESH_API_HOT_CALLS_PER_MINUTE = 10**9
    settings.MESH_API_WRONG_TOKENS_PER_MINUTE = 10**9
    settings.MESH_OLLAMA_RATE_CAPACITY = settings.MESH_OLLAMA_RATE_REFILL_PER_S = 10**9
    told = tmp_path / "openapi.json"
    told.write_text(json.dumps(description()))
    argv = [sys.executable, "-m", "schemathesis.cli"]
    argv += ["--config-file", str(HERE / "schemathesis.toml"), "run", str(told)]
    argv += ["--url", site.url, "--no-color", "--max-examples", EXAMPLES or "2"]
    argv += [] if EXAMPLES else ["--phases", "examples,fuzzing", "--seed", "1"]
    argv += ["--header", f"Authorization: Bearer {tokens['admin']}"]
    with OllamaStub() as stub:
        settings.MESH_OLLAMA_BASE_URL = stub.url
        tried = subprocess.run(
            argv, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
        )

    print(tried.stdout)  # seen with -s, as `make schema` has it
    assert tried.returncode == 0, tried.stdout[-20_000:] + tried.stderr[-2_000:]
