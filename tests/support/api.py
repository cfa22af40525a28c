"""The REST API as its clients use it: with a token, in JSON."""

from __future__ import annotations

import json
from typing import Any

import redis
from django.test import Client

from bus import accounts
from bus.api.problems import KINDS, MEDIA_TYPE
from tests.support.desk import Desk

ROOT = "/api/v1/mesh"


class Api:
    """Calls of one principal; paths are below /api/v1/mesh/."""

    def __init__(self, token: str | None) -> None:
        # Bugs must come out as a client sees them.
        self.client = Client(raise_request_exception=False)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"{ROOT}/{path}", query, headers=self.headers)

    def post(self, path: str, value: Any = None, **headers: str) -> Any:
        """POST a JSON value; headers as `Idempotency_Key="…"`."""
        told = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.client.post(
            f"{ROOT}/{path}",
            {} if value is None else value,
            content_type="application/json",
            headers={**self.headers, **told},
        )

    def raw(
        self,
        path: str,
        body: bytes,
        content_type: str = "application/json",
        method: str = "POST",
        **headers: str,
    ) -> Any:
        """A request with exactly these bytes."""
        told = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.client.generic(
            method,
            f"{ROOT}/{path}",
            body,
            content_type,
            headers={**self.headers, **told},
        )

    def delete(self, path: str) -> Any:
        return self.client.delete(f"{ROOT}/{path}", headers=self.headers)


def api(role: str | None = "operator", topics: tuple[str, ...] = ()) -> Api:
    """Calls with a token of this role, bound to these topic prefixes; None: nobody."""
    if role is None:
        return Api(None)
    return Api(accounts.create_token(f"test {role}", role, topics)[1])


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document of a response, which must be a whole one of this code."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == MEDIA_TYPE
    document: dict[str, Any] = response.json()
    assert document["code"] == code, document
    assert document["status"] == status == KINDS[code].status
    assert document["type"] == f"urn:mesh:problem:{code}"
    assert document["title"] == KINDS[code].title
    assert document["detail"]
    return document


def keyspace(client: redis.Redis) -> dict[str, bytes]:
    """What Redis holds, to see that a refused call wrote nothing; rate limits apart."""
    names = (name for name in client.scan_iter(count=1000))
    return {
        name: client.dump(name) for name in names if not name.startswith("mesh:rate")
    }


def send(client: Api, topic: str, task: Any = 1, **more: Any) -> str:
    """Enqueue over HTTP; the id."""
    response = client.post("enqueue", {"topic": topic, "task": task, **more})
    assert response.status_code == 201, response.content
    task_id: str = response.json()["id"]
    return task_id


def a_dead_one(client: Api, topic: str, task: Any = 1, **more: Any) -> str:
    """Enqueue over HTTP and let the oldest task of the topic die; the id."""
    task_id = send(client, topic, task, **more)
    desk = Desk(topic)
    desk.fail(desk.one(), final=True)
    return task_id


def finish(topic: str, result: Any = "ok") -> None:
    """Complete all that waits."""
    desk = Desk(topic)
    desk.complete(*desk.claim(100), result=json.dumps(result))
