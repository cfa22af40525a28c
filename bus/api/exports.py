"""Lists as files: the same rows, all of them, streamed line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import QueryDict, StreamingHttpResponse
from django.utils import timezone

from bus import exports

from .members import invalid

_PIECE_BYTES: Final = 256 * 1024  # of lines that leave together


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
    what cannot be read at all is a problem, not a file that breaks off. HEAD has none.

    `request` is a DRF request, `kind` of `exports.FORMATS`, `columns` are those of CSV.
    """
    if request.method == "HEAD":
        pieces: Iterator[bytes] = iter(())  # else all would be read, for nobody
    else:
        pieces = _pieces(exports.lines(rows, kind, columns))
        pieces = chain([next(pieces, b"")], pieces)
    serving_async = hasattr(request._request, "scope")
    content = _asynchronous(pieces) if serving_async else pieces
    answer = StreamingHttpResponse(content, content_type=exports.MEDIA_TYPES[kind])
    file = f"{name}-{timezone.now():%Y%m%d-%H%M%S}.{kind}"
    answer["Content-Disposition"] = f'attachment; filename="{file}"'
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Cache-Control"] = "no-store"
    return answer


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, joined to pieces of that size: one for each would cost more."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


async def _asynchronous(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, made in the thread of the request: Django would collect all first."""
    some = sync_to_async(lambda: next(pieces, b""))
    while piece := await some():
        yield piece
