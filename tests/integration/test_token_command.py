"""`manage.py token` makes, lists and ends the tokens of clients and agents."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection
from django.test import Client

from bus import accounts, models
from tests.support.mesh import environment
from tests.support.processes import ROOT

pytestmark = pytest.mark.django_db


def token(*args: str) -> tuple[str, str]:
    """What it prints on stdout and stderr."""
    out, err = StringIO(), StringIO()
    call_command("token", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def status(text: str) -> int:
    headers: dict[str, Any] = {"authorization": f"Bearer {text.strip()}"}
    return Client().get("/api/v1/mesh/topics", headers=headers).status_code


@pytest.mark.usefixtures("redis_client")
def test_a_new_token_opens_until_it_is_revoked() -> None:
    text, said = token("create", "ci", "--role", "viewer")
    key = models.Token.objects.get().token_key

    assert status(text) == 200
    assert text.strip() not in said
    assert key in said
    out, _ = token("revoke", key[:8])
    assert "Token of ci ended" in out
    assert status(text) == 401


def test_the_text_is_alone_on_stdout_and_never_listed() -> None:
    text, _ = token("create", "shop agent", "--role", "agent", "--topic", "shop-")

    out, _ = token("list")

    assert len(text.split()) == 1
    assert text.strip() not in out
    assert "shop agent" in out
    assert "shop-…" in out


def test_the_list_is_for_pipes_too() -> None:
    token("create", "one", "--role", "viewer")
    token("create", "two", "--role", "agent", "--topic", "a", "--topic", "b")

    out, _ = token("list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]

    assert [(row["name"], row["topics"]) for row in rows] == [
        ("two", ["a", "b"]),
        ("one", []),
    ]


def test_what_is_done_to_tokens_is_on_the_trail() -> None:
    token("create", "ci", "--role", "operator")
    key = models.Token.objects.get().token_key
    token("revoke", key)

    entries = list(models.AuditEntry.objects.order_by("id"))

    assert [(each.verb, each.target) for each in entries] == [
        ("create token", "ci"),
        ("revoke token", "ci"),
    ]
    assert entries[0].who.startswith("manage.py by ")
    assert entries[1].before == entries[0].after


def test_a_token_lasts_as_long_as_it_was_given() -> None:
    text, _ = token(
        "create", "ci", "--role", "viewer", "--days", "30", "--description", "for CI"
    )

    made = models.Token.objects.get()
    assert made.expiry is not None and (made.expiry - made.created).days in (29, 30)
    assert made.made_by.startswith("manage.py by ")
    row = json.loads(token("list", "--json")[0])
    assert row == accounts.facts(made) and row["expires_at"]
    assert f"{made.expiry:%Y-%m-%d}" in token("list")[0]
    made.expiry = made.created
    made.save()
    assert "ended" in token("list")[0]
    assert text.strip() not in token("list", "--json")[0]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["create", "x", "--role", "boss"], "invalid choice: 'boss'"),
        (["create", "x"], "--role"),
        (["create", "", "--role", "viewer"], "is not 1 to 100 letters"),
        (["create", "x\n", "--role", "viewer"], "is not 1 to 100 letters"),
        (["create", "x", "--role", "viewer", "--topic", "No Topic"], "topic"),
        (["create", "x", "--role", "viewer", "--days", "0"], "is no number 1 to 3650"),
        (["revoke", "nosuch"], "no token begins with 'nosuch'"),
        (["revoke", ""], "no token begins with ''"),
        ([], "verb"),
    ],
)
def test_odd_calls_are_told_in_a_sentence(args: list[str], says: str) -> None:
    with pytest.raises(CommandError, match="(?s).+") as told:
        token(*args)

    assert says in str(told.value)
    assert models.Token.objects.count() == 0


def test_a_database_that_is_not_migrated_is_told_with_what_to_type() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE bus_token RENAME TO elsewhere")

    with pytest.raises(CommandError, match="cannot be used: .*manage.py migrate") as it:
        token("list")

    assert it.value.returncode == 69


def test_so_is_one_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise ProgrammingError('relation "bus_token" does not exist')

    monkeypatch.setattr(accounts, "revoke_token", missing)

    with pytest.raises(CommandError, match="cannot be used: .*manage.py migrate"):
        token("revoke", "abcdef")


def test_a_file_that_is_no_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").write_text("by hand " * 1_000)

    done = subprocess.run(
        [sys.executable, "manage.py", "token", "list"],
        cwd=ROOT,
        env=environment(tmp_path, SECRET_KEY="of a test"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 69
    assert "the database cannot be used: file is not a database" in done.stderr
    assert "MESH_VAR_DIR" in done.stderr and "Traceback" not in done.stderr


def test_a_name_is_shown_as_it_is() -> None:
    odd = r"a\[/] [red] :bug:"
    token("create", odd, "--role", "viewer")

    assert odd in token("list")[0]
