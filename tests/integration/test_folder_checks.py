"""`doctor` looks at the folder too: database, credentials, web server."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth import authenticate
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from bus import accounts, health, models, roles
from bus.home import credentials, folder, web

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def var_dir(settings: Settings, tmp_path: Path) -> Path:
    """A folder of this test's own."""
    settings.MESH_VAR_DIR = str(tmp_path)
    return tmp_path


def found(name: str) -> health.Check:
    return next(check for check in folder.checks() if check.name == name)


def test_a_folder_in_order_is_all_right() -> None:
    credentials.ensure("http://127.0.0.1:9")

    assert found("database").status == health.OK
    assert found("credentials").status == health.OK


def test_a_missing_migration_is_told() -> None:
    recorder = MigrationRecorder(connection)
    newest = max(name for app, name in recorder.applied_migrations() if app == "bus")
    recorder.record_unapplied("bus", newest)

    check = found("database")

    assert (check.status, "manage.py migrate" in check.hint) == (health.BAD, True)
    assert check.says == f"1 migration is not applied, bus.{newest} first"


def test_credentials_that_others_may_read_are_told() -> None:
    credentials.ensure("http://127.0.0.1:9")
    credentials.path().chmod(0o644)

    check = found("credentials")

    assert check.status == health.BAD
    assert check.hint == f"chmod 600 {credentials.path()}"


def test_a_web_server_that_is_away_is_told() -> None:
    with web.listen("127.0.0.1") as listener:
        url = web.url_of(listener)
    credentials.ensure(url)

    check = found("web")

    assert (check.status, url in check.says) == (health.WARN, True)


def test_credentials_are_kept_while_they_work() -> None:
    first, made = credentials.ensure("http://127.0.0.1:1")
    second, again = credentials.ensure("http://127.0.0.1:2")

    assert (made, again) == (True, False)
    assert (second.password, second.token) == (first.password, first.token)
    assert credentials.read() == second
    assert second.url == "http://127.0.0.1:2"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}', "\udcff"])
def test_a_broken_file_is_replaced(text: str) -> None:
    credentials.ensure("http://127.0.0.1:1")
    credentials.path().write_bytes(text.encode(errors="surrogateescape"))

    kept, made = credentials.ensure("http://127.0.0.1:1")

    assert made
    assert credentials.read() == kept
    assert credentials.path().stat().st_mode & 0o777 == 0o600


def test_secrets_are_not_in_a_repr() -> None:
    kept, _ = credentials.ensure("http://127.0.0.1:1")

    assert kept.password not in repr(kept)
    assert kept.token not in repr(kept)


@pytest.mark.parametrize("file_of_elsewhere", [False, True])
def test_the_admin_of_somebody_else_is_left_alone(file_of_elsewhere: bool) -> None:
    """Folders may share a database; `admin` may be a person's account there."""
    if file_of_elsewhere:
        credentials.ensure("http://127.0.0.1:1")
        models.Token.objects.all().delete()
    person = accounts.ensure_user("admin", roles.ADMIN, "a person's password")

    kept, _ = credentials.ensure("http://127.0.0.1:1")

    person.refresh_from_db()
    assert person.check_password("a person's password")
    assert kept.username.startswith("admin-")
    assert authenticate(username=kept.username, password=kept.password)


def test_a_deleted_file_resets_our_own_admin() -> None:
    first, _ = credentials.ensure("http://127.0.0.1:1")
    credentials.path().unlink()

    second, made = credentials.ensure("http://127.0.0.1:1")

    assert (made, second.username) == (True, "admin")
    assert authenticate(username="admin", password=second.password)
    assert not authenticate(username="admin", password=first.password)
    assert models.Token.objects.count() == 1


def test_a_revoked_token_is_replaced_and_its_admin_kept() -> None:
    first, _ = credentials.ensure("http://127.0.0.1:1")
    models.Token.objects.all().delete()

    second, made = credentials.ensure("http://127.0.0.1:1")

    assert (made, second.username) == (True, first.username)
    assert second.token != first.token
