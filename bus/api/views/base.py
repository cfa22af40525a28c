"""What every call has in common: who asks, what that takes, how it is written down."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from rest_framework import viewsets
from rest_framework.exceptions import PermissionDenied
from rest_framework.response import Response

from bus import audit, databases, errors, lookup, refusals, roles
from bus.messages import Task

from .. import asked, exceptions, jsontext, parsing
from ..auth import principal
from ..calls import Answer
from ..head import KEY, key_of
from ..permissions import check_topic, may_not
from ..problems import Problem
from ..schema import PREFIX

T = TypeVar("T")
# They say where a thing is instead, or what else there is.
_TELLING: Final = (
    errors.TaskNotFound,
    errors.DeadLetterNotFound,
    errors.TopicNotFound,
)


class MeshViewSet(viewsets.ViewSet):
    """A viewset whose actions name the verbs they take.

    `verbs` maps each action to the verbs of which a role needs one; an empty tuple is
    open to everybody. `hot` are the actions with the larger rate limit. `asks` names
    the query parameters of an action, where it has any.
    """

    verbs: ClassVar[dict[str, tuple[str, ...]]] = {}
    hot: ClassVar[frozenset[str]] = frozenset()
    asks: ClassVar[dict[str, tuple[str, ...]]] = {}
    request: Any

    @functools.cached_property
    def principal(self) -> roles.Principal | None:
        """Whom the request acts for; None where nobody is signed in."""
        return principal(self.request)

    @property
    def who(self) -> roles.Principal:
        """The principal of an action that is not open."""
        assert self.principal is not None
        return self.principal

    @property
    def default_response_headers(self) -> dict[str, str]:
        """No cache may keep what a token was shown, or show it as it was."""
        headers: dict[str, str] = super().default_response_headers
        return {**headers, "Cache-Control": "no-store"}

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Who it is, whether they may, how often; then whether it can be meant."""
        try:
            super().initial(request, *args, **kwargs)
        except databases.AWAY as exc:
            raise exceptions.database_away(exc, "not_written") from exc
        if self.action is not None and self.action != "metadata":
            asked.query_of(request.query_params, self.asks.get(self.action, ()))

    def handle_exception(self, exc: Exception) -> Response:
        """The problem it is; who does not reach a topic is not told its name by it.

        Here, since what is raised below may name topics after any check of ours.
        """
        if isinstance(exc, _TELLING) and self.who.topics:
            exc = type(exc)()
        if isinstance(exc, refusals.DamagedKey) and exc.topic:
            who = self.principal
            if who is None or not who.may_topic(exc.topic):
                hidden = refusals.DamagedKey("", exc.how)
                hidden.facts, exc = exc.facts, hidden
        response: Response = super().handle_exception(exc)
        return response

    def finalize_response(
        self, request: Any, response: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The answer, which once it is rendered holds nothing that holds it: else it
        would wait for a full collection of garbage, and it may have megabytes."""
        made = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(made, Response):
            made.add_post_render_callback(self._let_go)
        return made

    def _let_go(self, response: Any) -> None:
        response.renderer_context = {}
        self.response = None

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """The methods of this URL, and nothing else."""
        return Response(status=204, headers={"Allow": ", ".join(self.allowed_methods)})

    def http_method_not_allowed(
        self, request: Any, *args: Any, **kwargs: Any
    ) -> NoReturn:
        """A problem that names the methods there are; also for made-up ones."""
        allowed = ", ".join(self.allowed_methods)
        said = f"{str(request.method)[:20]!r} is not one of {allowed}"
        raise Problem("method_not_allowed", said, {"Allow": allowed})

    def body(self, needed: bool = True) -> Any:
        """The JSON body; without one `{}`, or a problem where it is needed."""
        meta = self.request.META
        if meta.get("CONTENT_LENGTH") in (None, "", "0"):
            if needed:
                raise Problem("unreadable", parsing.NO_BODY)
            return {}
        # Before it is read: looking for a CSRF token, Django may have eaten a form.
        encoding = meta.get("HTTP_CONTENT_ENCODING", "")
        jsontext.check_type(meta.get("CONTENT_TYPE", ""), encoding)
        return self.request.data

    def key(self) -> str | None:
        """The Idempotency-Key; Problem where a request has two, which Django joins."""
        # Only a server of ours knows the headers as they came.
        sent = getattr(self.request, "scope", {}).get("headers", ())
        if [name for name, _ in sent].count(KEY) > 1:
            said = "Idempotency-Key is given more than once"
            raise Problem("invalid_option", said)
        return key_of(self.request.headers.get("Idempotency-Key"))

    def request_key(self) -> str | None:
        """The Idempotency-Key where it may be any text; Problem where it is empty."""
        key = self.key()
        if key == "":
            raise Problem("invalid_option", "Idempotency-Key is empty")
        return key

    def answered(self, answer: Answer) -> Response:
        """An answer that both doors share, through this one."""
        return Response(answer.body, answer.status, headers=answer.headers)

    def needs(self, verb: str) -> None:
        """PermissionDenied where what a body asks for takes one verb more."""
        if not self.who.may(verb):
            raise PermissionDenied(may_not(self.who.role, (verb,)))

    def checked(self, topic: str | None) -> str | None:
        """The topic a client named, if its token reaches there."""
        return topic if topic is None else check_topic(self.who, topic)

    def found(
        self,
        task_id: str,
        missing: type[errors.NotFound] = errors.TaskNotFound,
        find: Callable[..., str] = lookup.topic_of,
    ) -> Task:
        """The task a path names."""
        topic = self.topic_of(task_id, missing, find)
        return by_id(lookup.get_task, missing, task_id, topic)

    def topic_of(
        self, task_id: str, missing: type[errors.NotFound], find: Callable[..., str]
    ) -> str:
        """The topic that is asked for; without one that which `find` picks of those
        that know the task, as far as the token reaches."""
        topic = self.checked(self.request.query_params.get("topic"))
        return by_id(find, missing, task_id, topic, reach=self.who.may_topic)

    def record(self, verb: str, topic: str, target: str, **detail: Any) -> None:
        """Write into the audit trail what was done; `before`, `after`: what changed."""
        audit.record(self.who, verb, topic=topic, target=target, **detail)


def by_id(
    call: Callable[..., T], missing: type[errors.NotFound], *args: Any, **more: Any
) -> T:
    """What `call` finds under an id in a path; one that cannot be is not there."""
    try:
        return call(*args, **more)
    except (errors.InvalidName, errors.TaskNotFound) as exc:
        raise missing(str(exc)) from None


def location(path: str) -> dict[str, str]:
    """The header that says where the new thing is."""
    return {"Location": f"{PREFIX}/{path}"}
