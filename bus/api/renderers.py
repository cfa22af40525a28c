"""How DRF writes answers."""

from __future__ import annotations

import json
from typing import Any

import orjson
from rest_framework.renderers import BaseRenderer


class FastJSONRenderer(BaseRenderer):
    """Compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None  # JSON has but one

    def render(self, data: Any, *_: Any, **__: Any) -> bytes:
        """The body; empty where there is none."""
        return b"" if data is None else written(data)


def written(data: Any) -> bytes:
    """A body."""
    try:
        return orjson.dumps(data)
    except TypeError:
        # Depth or integers that somebody's own entry brought.
        return json.dumps(data, ensure_ascii=False).encode()
