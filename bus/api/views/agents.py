"""The registry of agents: list, register, heartbeat, drain, deregister."""

from __future__ import annotations

from functools import partial
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import agents, audit, errors, leases, refusals, roles

from .. import asked, examples, lending, lists, parsing, serializers
from ..permissions import check_reach
from .base import MeshViewSet, by_id, location


class AgentViewSet(MeshViewSet):
    """`GET/POST agents`, `GET/DELETE agents/{id}`, `POST …/heartbeat`, `…/drain`."""

    verbs = {
        "list": (roles.READ,),
        "create": (roles.SERVE,),
        "retrieve": (roles.READ, roles.SERVE),
        "destroy": (roles.DELETE, roles.SERVE),
        "heartbeat": (roles.SERVE,),
        "drain": (roles.DRAIN,),
    }
    hot = frozenset({"heartbeat"})
    asks = {"list": ("state", "count", "cursor")}

    @extend_schema(
        operation_id="list_agents",
        summary="Agents of the last 24 h",
        tags=["agents"],
        parameters=[
            serializers.AGENT_STATE,
            serializers.COUNT,
            serializers.CURSOR,
        ],
        responses=serializers.AgentList,
    )
    def list(self, request: Any) -> Response:
        """Live agents by id, then those that are gone.

        A token bound to topics sees all of them, and of their topics those it reaches.
        """
        query = request.query_params
        state = asked.agent_state_of(query)
        # Only records of the page are read; a state stands in the record.
        seen = agents.seen()
        if state is not None:
            seen = [each for each in seen if (each.row() or {}).get("state") == state]
        page, after = lists.page(
            "agents",
            seen,
            lambda each: [each.gone, each.agent_id],
            asked.count_of(query),
            query.get("cursor"),
        )
        found = [row for each in page if (row := each.row())]
        return Response({"agents": [*map(self.who.shown, found)], "next": after})

    @extend_schema(
        operation_id="register_agent",
        summary="Register an agent",
        tags=["agents"],
        request=serializers.Registration,
        responses={201: serializers.Agent, 200: serializers.Agent},
        examples=examples.REGISTRATION,
    )
    def create(self, request: Any) -> Response:
        """Register an agent for `ttl_seconds`: 201, or 200 where it was there already.

        A registration that lives is renewed whole. Keep it with heartbeats. A task that
        the agent neither ends nor renews for `lease_s` is given to others.
        """
        given = parsing.registration(self.body())
        known = _registered(given.agent_id)
        if known is not None:  # a short time to live would be its end
            check_reach(self.who, known, ending=True)
        leases.register(
            given.agent_id,
            given.agent_type,
            given.ttl_seconds,
            given.meta,
            given.lease_s,
        )
        with refusals.written():
            row = self.who.shown(agents.get_agent(given.agent_id))
        status = 201 if known is None else 200
        return Response(row, status, headers=location(f"agents/{given.agent_id}"))

    @extend_schema(
        operation_id="get_agent",
        summary="One agent",
        tags=["agents"],
        parameters=[serializers.AGENT_ID],
        responses=serializers.Agent,
    )
    def retrieve(self, request: Any, agent_id: str) -> Response:
        """An agent, also for 24 h after it has gone."""
        row = by_id(agents.get_agent, errors.AgentNotFound, agent_id)
        return Response(self.who.shown(row))

    @extend_schema(
        operation_id="deregister_agent",
        summary="Deregister an agent",
        tags=["agents"],
        parameters=[serializers.AGENT_ID],
        responses={204: None},
    )
    def destroy(self, request: Any, agent_id: str) -> Response:
        """End its registration: what it has in hand is given to others at once.

        For 24 h it is still shown, as `gone`. An agent of the runtime registers again
        with its next beat: drain it instead.
        """
        parsing.nothing(self.body(needed=False))
        self._check_reach(agent_id, ending=True)
        with audit.of_steps(partial(self._note_end, agent_id)):
            if not by_id(leases.leave, errors.AgentNotFound, agent_id):
                raise errors.AgentNotFound(f"no agent {agent_id!r} is registered")
        self._note_end(agent_id)
        return Response(status=204)

    @extend_schema(
        operation_id="heartbeat_agent",
        summary="Keep a registration",
        tags=["agents"],
        parameters=[serializers.AGENT_ID],
        request=serializers.Heartbeat,
        responses=serializers.Beat,
        examples=examples.HEARTBEAT,
    )
    def heartbeat(self, request: Any, agent_id: str) -> Response:
        """Stay registered for `ttl_seconds` more; 404 says to register again.

        The leases of the `deliveries` it names begin anew, with the outcomes of
        `deliveries/extend`; those it does not name go on to their end. `drain` tells
        the agent to take nothing more, finish what it has in hand, and end.
        """
        return Response(lending.beat(self.who, agent_id, self.body(needed=False)))

    @extend_schema(
        operation_id="drain_agent",
        summary="Have an agent finish and end",
        tags=["agents"],
        parameters=[serializers.AGENT_ID],
        request=None,
        responses=serializers.Agent,
    )
    def drain(self, request: Any, agent_id: str) -> Response:
        """Tell an agent to take nothing more; it is `draining` from now on.

        It hears of that with its next heartbeat or claim, finishes what it has in hand,
        and one of ours ends then (what keeps it running starts another). The next
        registration under this id takes tasks again.
        """
        parsing.nothing(self.body(needed=False))
        self._check_reach(agent_id)
        by_id(agents.drain_agent, errors.AgentNotFound, agent_id)
        self.record(roles.DRAIN, "", agent_id)
        with refusals.written():
            return Response(self.who.shown(agents.get_agent(agent_id)))

    def _note_end(self, agent_id: str, **detail: Any) -> None:
        if self.who.role != roles.AGENT:  # agents that end are no news
            self.record(roles.DELETE, "", agent_id, **detail)

    def _check_reach(self, agent_id: str, ending: bool = False) -> None:
        if self.who.topics:  # who is bound to none need not ask what it serves
            row = by_id(agents.get_agent, errors.AgentNotFound, agent_id)
            check_reach(self.who, row, ending)


def _registered(agent_id: str) -> dict[str, Any] | None:
    """Its row while its registration lives."""
    try:
        row = agents.get_agent(agent_id)
    except errors.AgentNotFound:
        return None
    return None if row["state"] == "gone" else row
