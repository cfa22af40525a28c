"""Whether this folder's own parts are in order: database, credentials, web server."""

from __future__ import annotations

import stat
from typing import Final

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from .. import words
from ..health import BAD, OK, WARN, Check
from . import credentials, web

_RUN: Final = "type `make run` in this folder"


def checks() -> list[Check]:
    """Findings on what is not Redis; each stands alone, none raises."""
    return [_database(), _credentials(), _web()]


def _database() -> Check:
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as exc:
        says = f"the database does not answer: {exc}"
        return Check("database", BAD, says, "look at DATABASE_URL and MESH_VAR_DIR")
    if missing:
        return Check(
            "database",
            BAD,
            f"{words.count(len(missing), 'migration')} {words.are(len(missing))} "
            f"not applied, {missing[0][0]} first",
            f"manage.py migrate, or {_RUN}",
        )
    return Check("database", OK, f"{connection.vendor}, all migrations applied")


def _credentials() -> Check:
    path = credentials.path()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return Check("credentials", OK, f"no {path.name}: local mode makes it")
    except OSError as exc:
        says = f"{path} cannot be looked at: {exc.strerror}"
        return Check("credentials", BAD, says, "become its owner")
    if mode & 0o077:
        says = f"{path} holds an admin's password and others may read it ({mode:o})"
        return Check("credentials", BAD, says, f"chmod 600 {path}")
    if credentials.read() is None:
        says = f"{path} is not in the form we write"
        return Check("credentials", WARN, says, "delete it; `make run` makes new ones")
    return Check("credentials", OK, f"{path}, for its owner only")


def _web() -> Check:
    """Of its address nobody knows but who started it with --prod."""
    kept = credentials.read()
    if kept is None:
        says = "no address of one is kept here: not started yet, or with --prod"
        return Check("web", OK, says)
    if web.answers(kept.url):
        return Check("web", OK, f"the web server answers at {kept.url}")
    says = f"no web server answers at {kept.url}, where the last without --prod did"
    return Check("web", WARN, says, f"{_RUN}, unless one with --prod runs")
