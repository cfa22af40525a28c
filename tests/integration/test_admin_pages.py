"""Django's admin: users, groups, tokens and the trail; what is done there is told."""

from __future__ import annotations

import pytest
import redis
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client

from bus import accounts, audit, models, roles
from tests.support.pages import PASSWORD

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

PAGES = ["auth/user/", "auth/group/", "bus/token/", "bus/auditentry/"]


@pytest.fixture
def admin(redis_client: redis.Redis) -> Client:
    """A browser of the admin that `up` makes."""
    client = Client()
    client.force_login(accounts.ensure_user("boss", roles.ADMIN, PASSWORD))
    return client


def trail() -> list[tuple[str, str, str, str]]:
    rows = models.AuditEntry.objects.order_by("id")
    return [(row.who, row.verb, row.target, row.door) for row in rows]


def service_accounts() -> bool:
    """Whether one is left, which would keep its name from those bound to topics."""
    users = get_user_model().objects
    return users.filter(username__startswith="service:").exists()


@pytest.mark.parametrize("page", ["", *PAGES])
def test_an_admin_opens_every_page(admin: Client, page: str) -> None:
    accounts.create_token("ci", "viewer", ("a:",), description="for CI")
    audit.record(roles.Principal("user:1", "ann", "admin"), "x", before=1, after=[2])

    assert admin.get(f"/admin/{page}").status_code == 200


@pytest.mark.parametrize("role", ["viewer", "operator", "agent"])
def test_other_roles_do_not(role: str) -> None:
    client = Client()
    client.force_login(accounts.ensure_user("other", role, PASSWORD))

    for page in ("", *PAGES):
        response = client.get(f"/admin/{page}")
        assert response.status_code == 302 and "/admin/login/" in response["Location"]


def test_no_secret_of_a_token_is_shown(admin: Client) -> None:
    token, text = accounts.create_token("ci", "viewer")

    page = admin.get(f"/admin/bus/token/{token.digest}/change/").content.decode()

    shown = page.replace(f"/admin/bus/token/{token.digest}", "")
    assert text not in page and "ci" in page and token.token_key in page
    assert f">{token.digest}<" not in shown


def test_entries_of_the_trail_are_neither_changed_nor_deleted(admin: Client) -> None:
    entry = audit.record(roles.Principal("user:1", "ann", "admin"), "x")
    assert entry is not None
    url = f"/admin/bus/auditentry/{entry.pk}"

    assert admin.get(f"{url}/change/").status_code == 200
    assert admin.post(f"{url}/change/", {"who": "bob"}).status_code == 403
    assert admin.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    assert admin.get("/admin/bus/auditentry/add/").status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": entry.pk, "post": "yes"}
    admin.post("/admin/bus/auditentry/", chosen)
    assert models.AuditEntry.objects.get(verb="x").who == "ann"


def test_a_token_revoked_here_ends_and_is_told(admin: Client) -> None:
    token, text = accounts.create_token("ci", "viewer")
    assert accounts.principal_of(text)

    admin.post(f"/admin/bus/token/{token.digest}/delete/", {"post": "yes"})

    assert accounts.principal_of(text) is None
    assert trail() == [("boss", "revoke token", "ci", "admin")]
    assert not service_accounts()


def test_many_tokens_revoked_at_once_are_told_by_name(admin: Client) -> None:
    made = [accounts.create_token(f"t{n}", "viewer")[0] for n in range(3)]

    chosen = {
        "action": "delete_selected",
        "_selected_action": [token.digest for token in made],
        "post": "yes",
    }
    admin.post("/admin/bus/token/", chosen)

    assert {row[2] for row in trail()} == {"t0", "t1", "t2"}
    assert not service_accounts()


def test_users_get_their_role_here_and_the_trail_says_who_gave_it(
    admin: Client,
) -> None:
    form = {
        "username": "ann",
        "password1": "a-long-password-1",
        "password2": "a-long-password-1",
        "usable_password": "true",
    }
    admin.post("/admin/auth/user/add/", form)
    ann = get_user_model().objects.get(username="ann")
    operator = Group.objects.get(name="operator")
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    admin.post(
        f"/admin/auth/user/{ann.pk}/change/",
        {"username": "ann", "is_active": "on", "groups": [operator.pk], **joined},
    )

    assert accounts.of_user(ann).role == "operator"
    assert trail() == [
        ("boss", "create user", "ann", "admin"),
        ("boss", "change user", "ann", "admin"),
    ]
    told = models.AuditEntry.objects.latest("id").detail
    assert "Groups" in str(told["fields"])
    assert "a-long-password-1" not in str(list(models.AuditEntry.objects.values()))


# --- signing in


def test_signing_in_and_out_is_told_by_both_forms(redis_client: redis.Redis) -> None:
    accounts.ensure_user("boss", roles.ADMIN, PASSWORD)
    form = {"username": "boss", "password": PASSWORD}

    for url, door in (("/login/", "page"), ("/admin/login/", "admin")):
        client = Client()
        client.post(url, {**form, "password": "wrong"})
        client.post(url, form)
        client.post("/logout")
        assert trail()[-2:] == [
            ("boss", "sign in", "boss", door),
            ("boss", "sign out", "boss", "page"),
        ]

    assert len(trail()) == 4
    client.post("/logout")  # nobody signs out
    assert len(trail()) == 4
