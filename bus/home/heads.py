"""A bound on the head of a request, which httptools would collect without end."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES: Final = 65_536  # as much as h11 allows; browsers send a few thousand
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request line and headers grow beyond the bound.

    Counted in whole reads while a head is incomplete, so one that arrives in a single
    read may be as long as that read.
    """

    _in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._head_bytes > HEAD_MAX_BYTES:
            return  # refused; what was on its way is dropped
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.transport.write(_REFUSAL)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()
