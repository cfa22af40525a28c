"""Lists as files: the same rows, all of them, streamed line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import QueryDict, StreamingHttpResponse
from django.utils import timezone

from bus import exports

from .parsing import invalid

_TOGETHER: Final = 200  # rows that leave in one piece


def format_of(query: QueryDict) -> str | None:
    """The kind of file a list is asked for as; None for a page of JSON."""
    text = query.get("format", "json")
    if text not in ("json", *exports.FORMATS):
        known = ", ".join(("json", *exports.FORMATS))
        raise invalid([("?format", f"{text[:40]!r} is none of {known}")])
    return None if text == "json" else text


def response(
    request: Any,
    rows: Iterable[Mapping[str, Any]],
    kind: str,
    name: str,
    columns: Sequence[str],
) -> StreamingHttpResponse:
    """The file as an answer; rows are read as the client takes them, the first at once:
    what cannot be read at all is a problem, not a file that breaks off.

    `request` is a DRF request, `kind` of `exports.FORMATS`, `columns` are those of CSV.
    """
    lines = exports.lines(rows, kind, columns)
    first = b"".join(islice(lines, _TOGETHER))
    lines = chain([first], lines)
    serving_async = hasattr(request._request, "scope")
    content = _asynchronous(lines) if serving_async else lines
    answer = StreamingHttpResponse(content, content_type=exports.MEDIA_TYPES[kind])
    file = f"{name}-{timezone.now():%Y%m%d-%H%M%S}.{kind}"
    answer["Content-Disposition"] = f'attachment; filename="{file}"'
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Cache-Control"] = "no-store"
    return answer


async def _asynchronous(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The lines, read in the thread of the request: Django would collect all first."""
    some = sync_to_async(lambda: b"".join(islice(lines, _TOGETHER)))
    while piece := await some():
        yield piece
