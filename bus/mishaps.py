"""A mistake of ours while a request is answered: its id, under which the log has it.

The id is made once, so that log, page, header and problem document say the same.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any, Final

from django.core.signals import got_request_exception

log = logging.getLogger(__name__)

HEADER: Final = "X-Error-Id"
_MARK: Final = "mesh_error_id"


def id_of(request: Any) -> str:
    """The id of what failed for this request; empty if nothing did."""
    return str(getattr(request, _MARK, ""))


def _filed(request: Any = None, **_: Any) -> None:
    """Log what is failing just now, with its traceback; Django's signal calls this."""
    if request is None:
        return
    setattr(request, _MARK, uuid.uuid4().hex)
    said = "%s: %s %s failed"
    log.error(said, id_of(request), request.method, request.path, exc_info=True)


class _Once(logging.Filter):
    """Django logs the same failure again, with its traceback and without the id."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not id_of(getattr(record, "request", None))


got_request_exception.connect(_filed, dispatch_uid=__name__)
logging.getLogger("django.request").addFilter(_Once())
