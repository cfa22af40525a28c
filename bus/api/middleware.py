"""Whatever goes wrong below /api/ outside of a call is a problem document, too.

Unknown routes, hosts that are not ours, bugs: Django would answer with a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from bus import mishaps

from .problems import Problem, told
from .schema import PREFIX

_ROOT: Final = "/api/"
_SAYS: Final = {
    400: ("bad_request", "The request is malformed, or for another host."),
    403: ("permission_denied", "This is not allowed."),
    404: ("not_found", f"There is no such call; {PREFIX}/docs lists all."),
    405: ("method_not_allowed", "The method is not allowed here."),
    413: ("body_too_large", "The body is too large."),
}


def problem_documents(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Django middleware, to be the first: it sees the answers of all others."""

    def mending(request: HttpRequest) -> HttpResponseBase:
        return _mended(request, get_response(request))

    return mending


def _mended(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The response, or the problem document that belongs in its place."""
    failed = response.status_code >= 400 and request.path.startswith(_ROOT)
    if not failed or not response.get("Content-Type", "text/").startswith("text/"):
        return response
    status = response.status_code
    if status >= 500:
        problem = mistake(request)
    else:
        problem = Problem(*_SAYS.get(status, _SAYS[400]))
    headers = {**dict(response.items()), **problem.headers}
    for name in ("Content-Type", "Content-Length"):
        headers.pop(name, None)
    body, kind = told(request.path, problem)
    headers["Content-Length"] = str(len(body))
    return HttpResponse(body, kind, problem.status, headers=headers)


def mistake(request: Any) -> Problem:
    """The problem of a bug of ours, which is in the log under the id it names."""
    mark = mishaps.id_of(request)
    said = "The mesh failed; the log has more under the id."
    return Problem("internal_error", said, {mishaps.HEADER: mark}, id=mark)
