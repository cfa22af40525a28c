"""`doctor` looks at the folder too: database, credentials, web server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib.auth import authenticate
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from bus import accounts, health, models, roles
from bus.home import credentials, folder, web
from tests.support.processes import program
from tests.support.site import LiveSite

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


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


def test_a_folder_that_was_never_used_is_all_right(var_dir: Path) -> None:
    assert found("credentials").says == "no credentials.json: local mode makes it"
    assert found("web").says.endswith("kept here: not started yet, or with --prod")
    assert list(var_dir.iterdir()) == []


def test_credentials_in_another_form_are_told(var_dir: Path) -> None:
    credentials.path().write_text("{}")
    credentials.path().chmod(0o600)

    check = found("credentials")

    assert check.status == health.WARN
    assert check.says == f"{var_dir}/credentials.json is not in the form we write"


def test_credentials_that_cannot_be_looked_at_are_told(
    settings: Settings, var_dir: Path
) -> None:
    settings.MESH_VAR_DIR = str(var_dir / "file")
    (var_dir / "file").touch()

    check = found("credentials")

    assert (check.status, check.hint) == (health.BAD, "become its owner")
    assert check.says.endswith("cannot be looked at: Not a directory")


_LOOK = """
import django
django.setup()
from bus.home import folder
[database] = [check for check in folder.checks() if check.name == "database"]
print(database.status, database.says, database.hint, sep="|")
"""


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("fresh", r"\d+ migrations are not applied, \w+\.\w+ first", "migrate"),
        ("away/fresh", "the database does not answer: unable to open", "DATABASE_URL"),
    ],
)
def test_a_database_that_nobody_can_use_is_told(
    name: str, says: str, hint: str, var_dir: Path
) -> None:
    with program(_LOOK, env={"DATABASE_URL": f"sqlite:///{var_dir / name}"}) as asked:
        told, _ = asked.communicate(timeout=60)

    assert re.match(rf"bad\|{says}.*\|.*{hint}", told)


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_a_web_server_that_answers_is_told(live_site: LiveSite) -> None:
    credentials.ensure(live_site.url)

    check = found("web")

    assert check.status == health.OK
    assert check.says == f"the web server answers at {live_site.url}"


def test_a_web_server_that_is_away_is_told() -> None:
    with web.listen("127.0.0.1") as listener:
        url = web.url_of(listener)
    credentials.ensure(url)

    check = found("web")

    assert check.status == health.WARN
    assert check.says.endswith(f"at {url}, where the last without --prod did")
    assert check.hint.endswith("unless one with --prod runs")


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
