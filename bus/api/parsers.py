"""How DRF reads bodies: by `jsontext`, up to the limit of the call."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser

from bus.conf import conf

from . import jsontext, parsing


class StrictJSONParser(BaseParser):
    """JSON in plain UTF-8; what a view does with many large ones has another limit."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: Any = None, parser_context: Any = None
    ) -> Any:
        """The value of the body, or Problem."""
        context = parser_context or {}
        action = getattr(context.get("view"), "action", "")
        limit = body_limit(action in _LARGE)
        meta = context["request"].META
        encoding = meta.get("HTTP_CONTENT_ENCODING", "")
        jsontext.check_type(media_type or "", encoding)
        # One byte more tells whether there is more.
        raw = stream.read(limit + 1)
        each = parsing.EACH if action == "batch" else ""
        return jsontext.document(
            raw, media_type or "", encoding, limit=limit, each=each
        )


_LARGE: Final = frozenset({"batch", "complete"})


def body_limit(large: bool) -> int:
    """How many bytes a body may have."""
    return conf.BATCH_MAX_BYTES if large else conf.BODY_MAX_BYTES


class OnlyJSON(DefaultContentNegotiation):
    """Answers are JSON whatever a client accepts, problems not less than others.

    Bodies go to the one parser, which says what is wrong with their type.
    """

    def select_parser(self, request: Any, parsers: Any) -> Any:
        """The parser there is."""
        return parsers[0]

    def select_renderer(
        self, request: Any, renderers: Any, format_suffix: Any = None
    ) -> Any:
        """The renderer there is."""
        return renderers[0], renderers[0].media_type
