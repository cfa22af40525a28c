"""A client that knows the description of the API and a token, and nothing else."""

from __future__ import annotations

import functools
import time
from typing import Any, Final

import httpx2

from tests.support.api import ROOT

# What docs/api.md says of these: send it again.
_AGAIN: Final = frozenset({408, 429, 502, 503, 504})
_PATIENCE_S: Final = 120.0
_PAUSE_S: Final = 0.05
_TIMEOUT_S: Final = 40.0  # beyond the longest wait that is asked for


def checking(schema: Any) -> Any:
    """What checks values against a JSON schema, which has to be one itself."""
    # Not at the top: it compiles grammars for seconds, and each worker imports this.
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


class Description:
    """The OpenAPI document as the mesh serves it: its calls, by `operationId`."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self.url, self.token = url, token
        answer = httpx2.get(f"{url}{ROOT}/schema", headers=headers, timeout=_TIMEOUT_S)
        assert answer.status_code == 200, answer.text
        self._document = answer.json()
        self.calls = {
            call["operationId"]: (method.upper(), path, call)
            for path, calls in self._document["paths"].items()
            for method, call in calls.items()
        }

    def path_of(self, operation: str) -> str:
        """Where a call is, for clients that are more than one request."""
        return str(self.calls[operation][1])

    @functools.cache  # noqa: B019 - as long as the test
    def validator(self, operation: str, status: str) -> Any:
        """Of the body of a request (status ``), or of an answer; None: it has none."""
        _, _, call = self.calls[operation]
        told = call["responses"][status] if status else call["requestBody"]
        content = told.get("content", {}).get("application/json")
        if content is None:
            return None
        components = self._document["components"]
        schema = {**content["schema"], "components": components}
        return checking(schema)


class Client:
    """Calls by their names; all that goes out or comes in is as described."""

    def __init__(self, description: Description) -> None:
        self._of = description
        headers = {"Authorization": f"Bearer {description.token}"}
        self._http = httpx2.Client(
            base_url=description.url, headers=headers, timeout=_TIMEOUT_S
        )
        self.repeats = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, operation: str, body: Any = None, key: str = "", **params: Any
    ) -> Any:
        """The JSON of a success; sent again for as long as that is of use."""
        method, path, call = self._of.calls[operation]
        places = {each["name"]: each["in"] for each in call.get("parameters", ())}
        assert set(params) <= set(places), f"{operation} has {places}"
        inside = {n: v for n, v in params.items() if places[n] == "path"}
        query = {n: v for n, v in params.items() if places[n] == "query"}
        headers = {}
        if key:
            assert places["Idempotency-Key"] == "header"
            headers["Idempotency-Key"] = key
        if body is not None:
            self._of.validator(operation, "").validate(body)
        answer = self._sent(
            method, path.format(**inside), params=query, json=body, headers=headers
        )
        assert answer.is_success, f"{operation}: {answer.status_code} {answer.text}"
        assert str(answer.status_code) in call["responses"], operation
        validator = self._of.validator(operation, str(answer.status_code))
        if validator is None:
            return None
        validator.validate(answer.json())
        return answer.json()

    def _sent(self, method: str, path: str, **more: Any) -> httpx2.Response:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = self._http.request(method, path, **more)
                if answer.status_code not in _AGAIN:
                    return answer
                said = answer.text
            except httpx2.TransportError as exc:
                said = repr(exc)
            assert time.monotonic() < until, f"{method} {path}: {said}"
            self.repeats += 1
            time.sleep(_PAUSE_S)
