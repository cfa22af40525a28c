"""The suite keeps its state to itself."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from django.conf import settings


def test_nothing_of_a_test_is_kept_in_this_folder() -> None:
    """Else two runs at once share one database, and one of a running mesh at that."""
    temporary = Path(tempfile.gettempdir())

    assert temporary in Path(settings.MESH_VAR_DIR).parents
    assert temporary in Path(os.environ["MESH_VAR_DIR"]).parents
    assert temporary in Path(settings.DATABASES["default"]["TEST"]["NAME"]).parents
