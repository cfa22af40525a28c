"""A client of the gateway's endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

PATH = "/api/v1/mesh/ollama/generate"


class GatewayClient:
    """Asks the site to generate, as one principal."""

    def __init__(self, url: str, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx2.Client(
            base_url=url, headers=headers, timeout=60, trust_env=False
        )

    def ask(self, body: Any = None, **headers: str) -> httpx2.Response:
        """The answer to a JSON body, by default the plainest there is."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        sent = {"prompt": "hi"} if body is None else body
        return self.http.post(PATH, json=sent, headers=given)

    def open(self, body: Any) -> httpx2.Response:
        """A streamed answer, as soon as its first line is there; close it."""
        request = self.http.build_request("POST", PATH, json={**body, "stream": True})
        return self.http.send(request, stream=True)


NewCaller = Callable[..., GatewayClient]


def error_of(answer: Any) -> tuple[int, str]:
    """Status and text of an error, which has no other shape."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert set(body) <= {"error", "retry_after_ms", "outcome"}
    return answer.status_code, body["error"]
