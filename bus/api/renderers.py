"""How DRF writes answers."""

from __future__ import annotations

from typing import Any

from rest_framework.renderers import BaseRenderer

from bus import messages


class FastJSONRenderer(BaseRenderer):
    """Compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None  # JSON has but one

    def render(self, data: Any, *_: Any, **__: Any) -> bytes:
        """The body; empty where there is none."""
        return b"" if data is None else messages.written(data)
