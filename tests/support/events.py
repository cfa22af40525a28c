"""A reader of server-sent events, as a browser's EventSource is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.support.api import ROOT


class Ended(Exception):
    """The stream has ended, one way or another."""


@dataclass(frozen=True)
class Event:
    """One event; `data` is its JSON."""

    name: str
    id: str
    data: Any


class Events:
    """One connection to `results/stream`; the id of the last event is kept."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = 10,
        path: str = f"{ROOT}/results/stream",
    ) -> None:
        self._place, self._token = url.removeprefix("http://"), token
        self._timeout_s, self._path = timeout_s, path
        self.last_id = ""
        self.retry_ms: list[int] = []
        self.comments: list[str] = []

    def open(self, method: str = "GET", **query: Any) -> HTTPResponse:
        """Ask; the answer, whatever it is. Comes back with Last-Event-ID."""
        self._line = HTTPConnection(self._place, timeout=self._timeout_s)
        headers = {"Accept": "text/event-stream"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        path = f"{self._path}?{urlencode(query)}"
        self._line.request(method, path, headers=headers)
        self.answer = self._line.getresponse()
        return self.answer

    def next(self, *names: str) -> Event:
        """The next event (of one of these names); Ended, or TimeoutError."""
        while True:
            event = self._event()
            if not names or event.name in names:
                return event

    def close(self) -> None:
        self.answer.close()  # it holds the socket as well
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _event(self) -> Event:
        name, data = "message", ""
        while True:
            line = self._read()
            field, _, text = line.partition(": ")
            if field == "event":
                name = text
            elif field == "id":
                self.last_id = text
            elif field == "data":
                data += text
            elif field == "retry":
                self.retry_ms.append(int(text))
            elif not field and line:
                self.comments.append(line)
            elif not line and data:
                return Event(name, self.last_id, json.loads(data))

    def _read(self) -> str:
        try:
            line = self.answer.readline()
        except (HTTPException, ConnectionError) as exc:
            raise Ended(str(exc)) from exc
        if not line.endswith(b"\n"):
            raise Ended("cut off" if line else "")
        return line.decode().rstrip("\n")
