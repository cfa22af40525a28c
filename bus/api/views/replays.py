"""Bulk replay: looked at before, created, followed, paused, resumed, cancelled."""

from __future__ import annotations

from functools import partial
from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.response import Response

from bus import audit, blame, refusals, replays, roles
from bus.messages import iso_ms
from bus.replays import Job, ReplayNotFound

from .. import asked, examples, lists, parsing, picked, serializers
from .base import MeshViewSet, location

_KNOWN = PolymorphicProxySerializer(
    "ReplayPreviewOrKnown",
    [serializers.ReplayPreview, serializers.BulkReplay],
    resource_type_field_name=None,
)
_IDS_MOST = 1_000  # of letters that were not done, told one by one


class ReplayViewSet(MeshViewSet):
    """`GET/POST replays`, `GET/DELETE replays/{id}`, `POST …/pause`, `…/resume`."""

    verbs = {
        "list": (roles.READ,),
        "retrieve": (roles.READ,),
        **dict.fromkeys(("create", "pause", "resume", "destroy"), (roles.REPLAY,)),
    }
    asks = {"list": ("count", "cursor")}

    @extend_schema(
        operation_id="list_replays",
        summary="Bulk replays",
        tags=["dead letters"],
        parameters=[serializers.COUNT, serializers.CURSOR],
        responses=serializers.BulkReplayList,
    )
    def list(self, request: Any) -> Response:
        """The newest first: all that are open, and 100 of the last 30 days."""
        query = request.query_params
        found, after = lists.page(
            "replays",
            filter(self._reaches, replays.list_jobs()),
            lambda job: [-(iso_ms(job.created_at) or 0), job.id],
            asked.count_of(query),
            query.get("cursor"),
        )
        return Response({"replays": [job.as_dict() for job in found], "next": after})

    @extend_schema(
        operation_id="create_replay",
        summary="Replay many dead letters",
        tags=["dead letters"],
        parameters=[serializers.REQUEST_KEY],
        request=serializers.NewBulkReplay,
        responses={200: _KNOWN, 201: serializers.BulkReplay},
        examples=examples.BULK_REPLAY,
    )
    def create(self, request: Any) -> Response:
        """Freeze the letters that are selected now, and replay each of them once.

        Letters are named by `ids`, or by any of `topics`, `group`, `error`, `since`,
        `until`; up to 100,000. With `dry_run` nothing is written and the answer (200)
        is what it would be of; with `"start": false` they are frozen, and wait an hour
        for `resume`. Agents and web servers drive it, whatever becomes of this request.
        What others replay or discard first is skipped. Ten may be open at once (409).
        A repeat with the same `Idempotency-Key` is answered (200) with the bulk replay
        of the first, as it stands; with another body it is 409.
        """
        wanted = picked.bulk(self.body())
        chosen, pace, who = wanted.selection, wanted.pace, self.who
        for topic in chosen.topics:
            self.checked(topic)
        may = who.may_topic
        if wanted.dry_run:
            return Response(replays.preview(chosen, may))
        key = self.request_key()
        with audit.of_steps(partial(self._note_made, wanted)):
            job, new = replays.create_once(
                None if key is None else f"{who.key} {key}",
                *(chosen, pace, who.name),
                start=wanted.start,
                may=may,
            )
        # Also a repeat: the first request may have ended before it was written down.
        more = {} if new else {"repeat": True}
        self._note("bulk replay", job, **_asked(wanted), **more)
        headers = location(f"replays/{job.id}")
        return self._whole(job, 201 if new else 200, headers)

    @extend_schema(
        operation_id="get_replay",
        summary="One bulk replay",
        tags=["dead letters"],
        parameters=[serializers.REPLAY_ID],
        responses=serializers.BulkReplay,
    )
    def retrieve(self, request: Any, job_id: str) -> Response:
        """How far it is, and what came of the letters that were not done again."""
        return Response(_row(self._found(job_id)))

    @extend_schema(
        operation_id="pause_replay",
        summary="Pause a bulk replay",
        tags=["dead letters"],
        parameters=[serializers.REPLAY_ID],
        request=None,
        responses=serializers.BulkReplay,
    )
    def pause(self, request: Any, job_id: str) -> Response:
        """No letter is replayed after the answer, until somebody resumes it."""
        parsing.nothing(self.body(needed=False))
        found, verb = self._found(job_id), "pause bulk replay"
        with audit.of_steps(partial(self._note, verb, found)):
            job = replays.pause(found.id, self.who.name)
        self._note(verb, job)
        return self._whole(job)

    @extend_schema(
        operation_id="resume_replay",
        summary="Start a bulk replay, or let it go on",
        tags=["dead letters"],
        parameters=[serializers.REPLAY_ID],
        request=serializers.BulkPace,
        responses=serializers.BulkReplay,
        examples=examples.BULK_PACE,
    )
    def resume(self, request: Any, job_id: str) -> Response:
        """Go on where it was frozen, paused or stopped, with what is named of the pace
        changed: `null` takes a rate or the greatest failure rate away. A canary begins
        anew, and what failed before does not count any more."""
        given = picked.pace(self.body(needed=False))
        found, verb = self._found(job_id), "resume bulk replay"
        pace = found.pace.changed(**given) if given else None
        told = (pace or found.pace).as_dict()
        with audit.of_steps(partial(self._note, verb, found, **told)):
            job = replays.resume(found.id, pace)
        self._note(verb, job, **job.pace.as_dict())
        return self._whole(job)

    @extend_schema(
        operation_id="cancel_replay",
        summary="Cancel a bulk replay",
        tags=["dead letters"],
        parameters=[serializers.REPLAY_ID],
        responses={200: serializers.BulkReplay},
    )
    def destroy(self, request: Any, job_id: str) -> Response:
        """No letter is replayed after the answer; those that were not stay dead.

        What was replayed goes on, and its outcomes are still counted.
        """
        parsing.nothing(self.body(needed=False))
        found, verb = self._found(job_id), "cancel bulk replay"
        with audit.of_steps(partial(self._note, verb, found)):
            job = replays.cancel(found.id, self.who.name)
        self._note(verb, job)
        return self._whole(job)

    def _reaches(self, job: Job) -> bool:
        return all(map(self.who.may_topic, job.reach))

    def _found(self, job_id: str) -> Job:
        job = replays.get(job_id)
        if not self._reaches(job):
            raise ReplayNotFound(f"no bulk replay {job_id}")
        return job

    def _note(self, verb: str, job: Job, **detail: Any) -> None:
        detail |= {"letters": job.total, "topics": [*job.topics]}
        self.record(verb, job.topic, job.id, **detail)

    def _note_made(self, wanted: picked.Picked, job: str, **detail: Any) -> None:
        """Of one that is there, and could not be read."""
        topics = wanted.selection.topics
        topic = topics[0] if len(topics) == 1 else ""
        self.record("bulk replay", topic, job, **_asked(wanted), **detail)

    def _whole(
        self, job: Job, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        """The answer of a call that has changed it."""
        with refusals.written():
            return Response(_row(job), status, headers=headers)


def _asked(wanted: picked.Picked) -> dict[str, Any]:
    """What of a request is written down."""
    return {"selection": wanted.selection.as_dict(), **wanted.pace.as_dict()}


def _row(job: Job) -> dict[str, Any]:
    rows = [
        {"topic": each.topic, "id": each.id, "what": each.what, "why": why or None}
        for each, why in blame.reasons(replays.letters(job, _IDS_MOST))
    ]
    return {**job.as_dict(), "letters": rows}
