"""Tokens of clients and agents: list, one, make, revoke."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from bus import accounts, roles

from .. import asked, examples, lists, parsing, serializers
from ..permissions import check_grant
from .base import MeshViewSet, location


class TokenViewSet(MeshViewSet):
    """`GET/POST tokens`, `GET/DELETE tokens/{key}`."""

    verbs = dict.fromkeys(("list", "create", "retrieve", "destroy"), (roles.TOKENS,))
    asks = {"list": ("count", "cursor")}

    @extend_schema(
        operation_id="list_tokens",
        summary="Tokens",
        tags=["tokens"],
        parameters=[serializers.COUNT, serializers.CURSOR],
        responses=serializers.TokenList,
    )
    def list(self, request: Any) -> Response:
        """The newest first, ended ones as well; of none its text.

        A token that is bound to topics is told of those that are bound within them.
        """
        query = request.query_params
        found, after = lists.page(
            "tokens",
            accounts.tokens(self.who),
            lambda token: [-token.created.timestamp(), token.token_key],
            asked.count_of(query),
            query.get("cursor"),
        )
        rows = [accounts.facts(token) for token in found]
        return Response({"tokens": rows, "next": after})

    @extend_schema(
        operation_id="create_token",
        summary="Make a token",
        tags=["tokens"],
        parameters=[serializers.REQUEST_KEY],
        request=serializers.NewToken,
        responses={201: serializers.MadeToken},
        examples=examples.TOKEN,
    )
    def create(self, request: Any) -> Response:
        """Make a token: its text is `token` in this answer, and never shown again.

        `topics` are prefixes: it sees and touches only topics that begin so. With an
        `Idempotency-Key` a repeat makes no second token, and is 409; so is, for a token
        that is bound to topics, a name that others beyond them have.
        """
        given = parsing.token(self.body())
        check_grant(self.who, given.topics)
        key = self.request_key()
        made, text = accounts.create_token(
            given.name,
            given.role,
            given.topics,
            description=given.description,
            expires_at=given.expires_at,
            maker=self.who,
            once="" if key is None else f"{self.who.key} {key}",
        )
        facts = accounts.facts(made)
        self.record("create token", "", made.name, after=facts)
        headers = location(f"tokens/{made.token_key}")
        return Response({**facts, "token": text}, 201, headers=headers)

    @extend_schema(
        operation_id="get_token",
        summary="One token",
        tags=["tokens"],
        parameters=[serializers.TOKEN_KEY],
        responses=serializers.Token,
    )
    def retrieve(self, request: Any, key: str) -> Response:
        """A token by its `key`: what it may do, when it was last used."""
        return Response(accounts.facts(accounts.find_token(self.who, key)))

    @extend_schema(
        operation_id="revoke_token",
        summary="Revoke a token",
        tags=["tokens"],
        parameters=[serializers.TOKEN_KEY],
        responses={204: None},
    )
    def destroy(self, request: Any, key: str) -> Response:
        """End it: here at once, in other processes and open sockets within 5 s."""
        parsing.nothing(self.body(needed=False))
        token = accounts.find_token(self.who, key)
        before = accounts.facts(token)
        accounts.revoke(token)
        self.record("revoke token", "", token.name, before=before)
        return Response(status=204)
