"""What the description of the API says beyond its calls: credentials, errors."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.extensions import OpenApiAuthenticationExtension

PREFIX: Final = "/api/v1/mesh"
GATEWAY: Final = f"{PREFIX}/ollama/"
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_METHODS: Final = frozenset({"get", "post", "put", "patch", "delete"})


def is_gateway(path: str) -> bool:
    """Whether a call is the gateway's, whose errors are told as Ollama tells them.

    The calls about its generations are calls like all of the API.
    """
    if not path.startswith(GATEWAY):
        return False
    return path.removeprefix(GATEWAY).partition("/")[0] != "generations"


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tokens."""

    target_class = "bus.api.auth.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Sessions of the dashboard; what changes something needs `X-CSRFToken` too."""

    target_class = "bus.api.auth.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        from django.conf import settings

        name = settings.SESSION_COOKIE_NAME
        return {"type": "apiKey", "in": "cookie", "name": name}


def with_problems(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """Every error of every call is a problem document."""
    for path, calls in result["paths"].items():
        for method in _METHODS & set(calls):
            call = calls[method]
            for status in _statuses(call, path, method):
                call["responses"].setdefault(status, _response())
    return result


def as_it_is(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """What serializers cannot say: calls for everybody, bodies that are needed."""
    for path in _OPEN:
        for call in result["paths"][f"{PREFIX}/{path}"].values():
            call["security"] = [{}, *call["security"]]
    for path, method in _NEEDED:
        result["paths"][f"{PREFIX}/{path}"][method]["requestBody"]["required"] = True
    schemas = result["components"]["schemas"]
    schemas["PatchedTopicChange"]["minProperties"] = 1
    for name in ("Registration", "Heartbeat"):
        seconds = schemas[name]["properties"]["ttl_seconds"]
        seconds["exclusiveMinimum"] = seconds.pop("minimum")
    return result


# Health for whoever has no token yet; metrics too, on the machine itself.
_OPEN: Final = ("health", "health/live", "health/ready", "metrics")
_NEEDED: Final = (("replays", "post"), ("topics/{topic}", "patch"))


def closed(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """What is asked may have no members but those described."""
    for name in _ASKED:
        result["components"]["schemas"][name]["additionalProperties"] = False
    return result


_ASKED: Final = (
    *("Batch", "BulkPace", "NewBulkReplay"),
    *("Enqueue", "Heartbeat", "PatchedTopicChange", "Purge"),
    *("Claim", "Completions", "Completion", "Deliveries", "Delivery", "Error"),
    *("Failures", "Failure"),
    *("NewToken", "Registration", "Replay"),
)


def with_gateway(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """The gateway's call, which is no REST framework view: see `gateway_door.py`."""
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    refused = {"content": {"application/json": {"schema": error}}}
    answer = {"type": "object", "description": "Ollama's own answer."}
    told = {kind: {"schema": answer} for kind in _ANSWERS}
    call = {
        "operationId": "ollama_generate",
        "summary": "Ask a model",
        "description": "Through the gateway to Ollama; `X-Cache` says whether its "
        "answer was kept. With `stream` it comes as lines of JSON.",
        "tags": ["ollama"],
        "security": [{"token": []}, {"session": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _PROMPT}},
        },
        "responses": {
            "200": {"description": "What the model says.", "content": told},
            "default": {"description": "An error as Ollama tells it.", **refused},
        },
    }
    result["paths"][f"{PREFIX}/ollama/generate"] = {"post": call}
    return result


_ANSWERS: Final = ("application/json", "application/x-ndjson")
_PROMPT: Final = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "prompt": {"type": "string", "minLength": 1},
        "model": {"type": ["string", "null"]},
        "options": {"type": ["object", "null"]},
        "stream": {"type": ["boolean", "null"], "default": False},
    },
    "example": {"prompt": "Why is the sky blue?"},
}


def _statuses(call: dict[str, Any], path: str, method: str) -> list[str]:
    found = ["default"]
    if {} not in call.get("security", [{}]):
        found += ["401", "403", "429", "503"]
    if "{" in path:
        found.append("404")
    if method in ("post", "patch"):
        found += ["400", "409", "413", "415"]
    return [*found, "422"]  # of every call: parameters that it does not have


def _response() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {"description": "A problem document.", "content": content}
