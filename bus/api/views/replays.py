"""Bulk replay: looked at before, created, followed, paused, resumed, cancelled."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.response import Response

from bus import blame, replays, roles
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
        job, new = replays.create_once(
            None if key is None else f"{who.key} {key}",
            *(chosen, pace, who.name),
            start=wanted.start,
            may=may,
        )
        detail = {"selection": chosen.as_dict(), **pace.as_dict()}
        # Also a repeat: the first request may have ended before it was written down.
        self._note("bulk replay", job, **detail, **({} if new else {"repeat": True}))
        headers = location(f"replays/{job.id}")
        return Response(self._whole(job), 201 if new else 200, headers=headers)

    @extend_schema(
        operation_id="get_replay",
        summary="One bulk replay",
        tags=["dead letters"],
        parameters=[serializers.REPLAY_ID],
        responses=serializers.BulkReplay,
    )
    def retrieve(self, request: Any, job_id: str) -> Response:
        """How far it is, and what came of the letters that were not done again."""
        return Response(self._whole(self._found(job_id)))

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
        job = replays.pause(self._found(job_id).id, self.who.name)
        self._note("pause bulk replay", job)
        return Response(self._whole(job))

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
        found = self._found(job_id)
        job = replays.resume(found.id, found.pace.changed(**given) if given else None)
        self._note("resume bulk replay", job, **job.pace.as_dict())
        return Response(self._whole(job))

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
        job = replays.cancel(self._found(job_id).id, self.who.name)
        self._note("cancel bulk replay", job)
        return Response(self._whole(job))

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

    def _whole(self, job: Job) -> dict[str, Any]:
        told = replays.letters(job, _IDS_MOST)
        gone = [(each.topic, each.id) for each in told if each.why == "discarded"]
        by = blame.discarded_by(gone) if gone else {}
        rows = []
        for each in told:
            who = by.get((each.topic, each.id)) if each.why == "discarded" else None
            why = f"{each.why} by {who}" if who else each.why or None
            rows.append(
                {"topic": each.topic, "id": each.id, "what": each.what, "why": why}
            )
        return {**job.as_dict(), "letters": rows}
