"""Dead letters: lists, groups, one letter; replay, discard, undo."""

from __future__ import annotations

import functools
from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

import bus
from bus import decisions, errors, lookup, purges, records, refusals, roles
from bus.exports import CSV
from bus.letters import DeadLetter
from bus.messages import DEAD, DISCARDED, WAITING
from bus.sought import Sought

from .. import asked, examples, exports, lists, parsing, serializers, shapes
from .base import MeshViewSet, by_id


class DeadViewSet(MeshViewSet):
    """`GET dead`, `dead/groups`, `dead/{task id}`; replay, undo, DELETE to discard."""

    verbs = {
        "list": (roles.READ,),
        "groups": (roles.READ,),
        "retrieve": (roles.READ,),
        "replay": (roles.REPLAY,),
        "destroy": (roles.DISCARD,),
        "undo": (roles.UNDO,),
    }
    asks = {
        **dict.fromkeys(("retrieve", "replay", "destroy", "undo"), ("topic",)),
        "list": (
            *("topic", "group", "error", "since", "until"),
            *("count", "cursor", "format"),
        ),
        "groups": ("topic", "count", "cursor"),
    }

    @extend_schema(
        operation_id="list_dead",
        summary="Dead letters",
        tags=["dead letters"],
        parameters=[
            serializers.TOPIC_OPTIONAL,
            serializers.GROUP,
            serializers.ERROR,
            serializers.SINCE,
            serializers.UNTIL,
            serializers.COUNT,
            serializers.CURSOR,
            serializers.FORMAT,
        ],
        responses={
            (200, "application/json"): serializers.DeadList,
            **serializers.FILES,
        },
    )
    def list(self, request: Any) -> Response | HttpResponseBase:
        """The newest first, of one topic or of all this token reaches.

        Pages may be short where few of many letters fit; the list ends where `next`
        is null. As `jsonl` or `csv` all of them, as a file; `count` and `cursor` are of
        pages only.
        """
        query = request.query_params
        sought = Sought(
            self._topics(),
            asked.group_of(query),
            query.get("error"),
            asked.time_of(query, "since"),
            asked.time_of(query, "until"),
        )
        kind = exports.format_of(query)
        if kind is not None:
            shape = shapes.letter_line if kind == CSV else DeadLetter.row
            rows = map(shape, lists.every_letter(sought))
            name, columns = "dead-letters", shapes.LETTER_COLUMNS
            return exports.response(request, rows, kind, name, columns)
        count, cursor = asked.count_of(query), query.get("cursor")
        found, after = lists.dead_letters(sought, count, cursor)
        return Response({"dead": [letter.row() for letter in found], "next": after})

    @extend_schema(
        operation_id="list_dead_groups",
        summary="Dead letters that failed alike",
        tags=["dead letters"],
        parameters=[
            serializers.TOPIC_OPTIONAL,
            serializers.COUNT,
            serializers.CURSOR,
        ],
        responses=serializers.GroupList,
    )
    def groups(self, request: Any) -> Response:
        """The largest groups first: what failed, how often, since when."""
        query = request.query_params
        rows = [
            {"topic": topic, **group}
            for topic in self._topics()
            for group in bus.dead_groups(topic)
        ]
        found, after = lists.page(
            "groups",
            rows,
            lambda row: [-row["count"], row["topic"], row["fingerprint"]],
            asked.count_of(query),
            query.get("cursor"),
        )
        return Response({"groups": found, "next": after})

    @extend_schema(
        operation_id="get_dead",
        summary="One dead letter",
        tags=["dead letters"],
        parameters=[serializers.TASK_ID, serializers.TOPIC_OPTIONAL],
        responses=serializers.Letter,
    )
    def retrieve(self, request: Any, task_id: str) -> Response:
        """A dead letter with all its attempts."""
        return Response(self._letter(task_id).row())

    @extend_schema(
        operation_id="replay_dead",
        summary="Replay a dead letter",
        tags=["dead letters"],
        parameters=[
            serializers.TASK_ID,
            serializers.TOPIC_OPTIONAL,
            serializers.REQUEST_KEY,
        ],
        request=serializers.Replay,
        responses=serializers.Moved,
        examples=examples.REPLAY,
    )
    def replay(self, request: Any, task_id: str) -> Response:
        """Put the task back to work, with another payload if the body has a `task`.

        Of any number of concurrent replays one succeeds, the others are 409 with the
        `state` the task is in. With an `entry_id` only that letter is replayed, not a
        later one of the same task. A repeat with the same `Idempotency-Key` is the same
        replay, answered with the state the task is in by then; with another payload it
        is 409 `task_conflict`.
        """
        payload, entry_id = parsing.replay(self.body(needed=False))
        task, request_id = self._dead_task(task_id), self._request_id()
        by = self.who.name
        did = decisions.replayed(task.id, task.topic, payload, entry_id, by, request_id)
        detail: dict[str, Any] = {"edited": payload is not ...}
        if not did:
            detail["repeat"] = True
        elif payload is not ...:
            detail |= {"before": task.payload, "after": payload}
        # Also a repeat: the first request may have ended before it was written down.
        self.record(roles.REPLAY, task.topic, task.id, **detail)
        return _moved(task, WAITING if did else None)

    @extend_schema(
        operation_id="discard_dead",
        summary="Discard a dead letter",
        tags=["dead letters"],
        parameters=[
            serializers.TASK_ID,
            serializers.TOPIC_OPTIONAL,
            serializers.REQUEST_KEY,
        ],
        responses={200: serializers.Discarded},
    )
    def destroy(self, request: Any, task_id: str) -> Response:
        """Take the letter out for good; `undo` brings it back within an hour.

        Of any number of concurrent discards one succeeds, the others are 409 with the
        `state` the task is in. A repeat with the same `Idempotency-Key` is the same
        discard, answered with the state the task is in by then. A letter that somebody
        wrote without a task has its `entry_id` in place of the task's id, with `topic`,
        and is gone for good.
        """
        parsing.nothing(self.body(needed=False))
        if records.is_sid(task_id):
            return self._entry_discarded(task_id)
        task = self._dead_task(task_id)
        did = decisions.discarded(task.id, task.topic, self._request_id())
        self.record(roles.DISCARD, task.topic, task.id, **_told(did))
        return _moved(task, DISCARDED if did else None)

    @extend_schema(
        operation_id="undo_discard",
        summary="Bring a discarded letter back",
        tags=["dead letters"],
        parameters=[
            serializers.TASK_ID,
            serializers.TOPIC_OPTIONAL,
            serializers.REQUEST_KEY,
        ],
        request=None,
        responses=serializers.Moved,
    )
    def undo(self, request: Any, task_id: str) -> Response:
        """Undo a discard of the last hour.

        Of any number of concurrent undos one succeeds, the others find nothing to undo
        (404). A repeat with the same `Idempotency-Key` is the same undo, answered with
        the state the task is in by then.
        """
        parsing.nothing(self.body(needed=False))
        topic = self._topic()
        if topic is None:
            topic = self._discarded_in(task_id)
        missing, request_id = errors.DeadLetterNotFound, self._request_id()
        _, did = by_id(decisions.undone, missing, task_id, topic, request_id)
        named = (topic or "", task_id)
        try:
            with refusals.written():
                task = bus.get_task(task_id, topic)
                named = (task.topic, task.id)
        finally:  # also where it cannot be read: it is back
            self.record(roles.UNDO, *named, **_told(did))
        return _moved(task, task.state)

    def _entry_discarded(self, entry_id: str) -> Response:
        """Entries are numbered topic by topic, so that theirs must be named."""
        topic = self._topic()
        if topic is None:
            said = f"entry {entry_id} may be of any topic: name it as `topic`"
            raise errors.InvalidOption(said)
        letter = purges.discard_entry(topic, entry_id)
        self.record(roles.DISCARD, topic, entry_id)
        return Response({"id": letter.id, "topic": topic, "state": DISCARDED})

    def _request_id(self) -> str | None:
        """What tells this request from others, also those of other callers."""
        key = self.request_key()
        return None if key is None else f"{self.who.key} {key}"

    def _topic(self) -> str | None:
        return self.checked(self.request.query_params.get("topic"))

    def _topics(self) -> tuple[str, ...]:
        """The topic a list is asked of, else all that have letters, if reached."""
        topic = self._topic()
        if topic is not None:
            return (topic,)
        return tuple(filter(self.who.may_topic, lists.with_letters()))

    def _letter(self, task_id: str) -> DeadLetter:
        missing = errors.DeadLetterNotFound
        find = functools.partial(lookup.topic_of, states={DEAD})
        return bus.get_dead(task_id, self.topic_of(task_id, missing, find))

    def _dead_task(self, task_id: str) -> bus.Task:
        """The task of a letter; whether it is dead (still) is for the bus to say."""
        find = functools.partial(lookup.one_topic, states=lookup.TO_DECIDE)
        return self.found(task_id, errors.DeadLetterNotFound, find)

    def _discarded_in(self, task_id: str) -> str | None:
        """Where a discarded task lies; None where only the bin can know."""
        try:
            return self._dead_task(task_id).topic
        except errors.DeadLetterNotFound:
            if self.who.topics:
                raise
            return None


def _moved(task: bus.Task, state: str | None) -> Response:
    """Where the task is now: in this state, or for a repeat wherever it is by then."""
    if state is None:
        with refusals.written():  # by the request before
            state = bus.get_task(task.id, task.topic).state
    return Response({"id": task.id, "topic": task.topic, "state": state})


def _told(did: bool) -> dict[str, Any]:
    """Also a repeat is recorded: the first may have ended before it was."""
    return {} if did else {"repeat": True}
