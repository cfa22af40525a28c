"""The suite keeps its state to itself."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from django.conf import settings

from tests.support import shell
from tests.support.processes import ROOT, program

_LOOK = """
import json
import tests.conftest
from django.conf import settings
engine = settings.DATABASES["default"]["ENGINE"]
print(json.dumps([engine, settings.MESH_HOST, settings.HTTPS, settings.REDIS_URL]))
"""
_SHELL = {
    "DATABASE_URL": "postgres://me:pass@db.example:5/mesh",
    "HOST": "0.0.0.0",
    "HTTPS": "1",
    "REDIS_URL": "redis://redis.example:6379/0",
}


def test_nothing_of_a_test_is_kept_in_this_folder() -> None:
    """Else two runs at once share one database, and one of a running mesh at that."""
    temporary = Path(tempfile.gettempdir())

    assert temporary in Path(settings.MESH_VAR_DIR).parents
    assert temporary in Path(os.environ["MESH_VAR_DIR"]).parents
    assert temporary in Path(settings.DATABASES["default"]["TEST"]["NAME"]).parents


def test_what_a_shell_has_set_for_its_mesh_reaches_no_test() -> None:
    """Else the suite would make its database on that server."""
    with program(_LOOK, env=_SHELL) as suite:
        said, _ = suite.communicate(timeout=60)

    assert json.loads(said) == ["django.db.backends.sqlite3", "127.0.0.1", False, ""]


def test_all_that_settings_read_is_known_to_the_suite() -> None:
    text = (ROOT / "meshsite" / "settings.py").read_text()
    read = set(re.findall(r'(?:env\.\w+|_whole|_flag|_names)\(\s*"([A-Z_]+)"', text))

    assert read == {*shell.OF_SETTINGS, "MESH_REDIS_BIN", "TMPDIR"}
