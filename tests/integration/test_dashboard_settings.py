"""The settings page: how the mesh is set up, and its tokens, for those who may."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import accounts, models
from tests.support.pages import looked_at, signed_in

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("nothing_known"),
]

FORM = {
    "name": "resizer",
    "role": "agent",
    "topics": "images: b-, c.",
    "description": "host 7",
    "days": "30",
    "once": "form-1",
}


def text_of(response: Any) -> str:
    return str(response.content.decode())


# --- how it is set up


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_whoever_reads_sees_checks_ledgers_and_settings(
    role: str, test_topic: str
) -> None:
    bus.enqueue_task(test_topic, 1)

    seen = looked_at(signed_in(role).get("/settings/"))

    assert seen.wrong == []
    for words in ("Self-check", "Ledgers", "Effective settings", test_topic):
        assert words in seen.text
    assert "nothing lost" in seen.text
    assert "MESH_BACKLOG_MAX" in seen.text and "REDIS_URL" in seen.text


def test_a_ledger_that_is_off_is_told(
    test_topic: str, redis_client: redis.Redis, admin: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    redis_client.hincrby(f"mesh:{{{test_topic}}}:counters", "accepted", 2)

    text = text_of(admin.get("/settings/"))

    assert "off by 2" in text and "nothing lost" not in text


def test_the_self_check_is_of_this_moment(test_topic: str, admin: Client) -> None:
    before = text_of(admin.get("/settings/"))
    bus.enqueue_task(test_topic, 1)

    after = text_of(admin.get("/settings/"))

    waits = "1 task waits and no live agent serves it"
    assert (waits in before, waits in after) == (False, True)


def test_without_redis_it_still_says_what_is_wrong(
    admin: Client, failure_simulator: Any
) -> None:
    failure_simulator.unreachable()

    response = admin.get("/settings/")

    assert response.status_code == 200
    assert "Redis does not answer" in text_of(response)
    assert "REDIS_URL" in text_of(response)


def test_no_secret_is_on_it(admin: Client, settings: Any) -> None:
    settings.SECRET_KEY = "hunter2-hunter2-hunter2"

    assert "hunter2" not in text_of(admin.get("/settings/"))


# --- who sees what


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_tokens_are_for_admins(role: str) -> None:
    token, _ = accounts.create_token("secretive", "viewer")
    client = signed_in(role)

    assert "secretive" not in text_of(client.get("/settings/"))
    for method, path in (
        ("post", "/settings/tokens"),
        ("get", f"/settings/tokens/{token.token_key}/revoke"),
        ("post", f"/settings/tokens/{token.token_key}/revoke"),
    ):
        assert getattr(client, method)(path, FORM).status_code == 403, path
    assert models.Token.objects.count() == 1
    assert models.AuditEntry.objects.count() == 0


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        ("viewer", ["/settings/"]),
        ("operator", ["/audit/", "/settings/"]),
        ("admin", ["/audit/", "/settings/"]),
    ],
)
def test_the_navigation_names_what_the_role_may_open(
    role: str, shown: list[str]
) -> None:
    client = signed_in(role)
    text = text_of(client.get("/"))

    assert [path for path in ("/audit/", "/settings/") if f'"{path}"' in text] == shown
    for path in shown:
        assert client.get(path).status_code == 200


# --- tokens


def test_a_token_is_made_and_shown_once(admin: Client) -> None:
    response = admin.post("/settings/tokens", FORM)

    assert response.status_code == 201
    assert looked_at(response).wrong == []
    text = response.context["text"]
    assert text in text_of(response) and "no-store" in response["Cache-Control"]
    principal = accounts.principal_of(text)
    assert principal is not None and principal.role == "agent"
    assert principal.topics == ("images:", "b-", "c.")
    page = admin.get("/settings/")
    assert text not in text_of(page) and text[:15] in text_of(page)
    token = models.Token.objects.get()
    assert token.made_by == "admin" and token.description == "host 7"
    assert token.expiry is not None and 29 <= (token.expiry - token.created).days <= 30
    entry = models.AuditEntry.objects.get()
    assert (entry.verb, entry.target, entry.door) == ("create token", "resizer", "page")
    assert text not in str(vars(entry))


def test_a_second_click_makes_no_second_token(admin: Client) -> None:
    admin.post("/settings/tokens", FORM)

    again = admin.post("/settings/tokens", FORM)

    assert again.status_code == 409
    assert "has made a token before" in text_of(again)
    assert models.Token.objects.count() == 1
    # Each page's form is another one.
    once = {admin.get("/settings/").context["draft"]["once"] for _ in range(2)}
    assert len(once) == 2
    admin.post("/settings/tokens", {**FORM, "once": once.pop()})
    assert models.Token.objects.count() == 2


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"name": " "}, "is not 1 to 100 letters"),
        ({"role": "boss"}, "No role"),
        ({"topics": "no: No"}, "No topic begins with 'No'"),
        ({"days": "8"}, "are none of the choices"),
        ({"days": "-1"}, "are none of the choices"),
        ({"description": "x" * 201}, "is not 0 to 200 letters"),
    ],
)
def test_a_mistake_is_shown_beside_the_form_which_keeps_the_rest(
    admin: Client, odd: dict[str, str], says: str
) -> None:
    response = admin.post("/settings/tokens", {**FORM, **odd})

    assert response.status_code == 422
    seen = looked_at(response)
    assert seen.wrong == [] and says in seen.text
    kept = {name: FORM[name] for name in ("name", "description") if name not in odd}
    for value in kept.values():
        assert f'value="{value}"' in text_of(response)
    assert models.Token.objects.count() == 0


def test_a_token_is_revoked_after_a_question(admin: Client) -> None:
    token, text = accounts.create_token("ci", "viewer")
    url = f"/settings/tokens/{token.token_key}/revoke"

    asked = admin.get(url)
    assert looked_at(asked).wrong == [] and "Revoke this token?" in text_of(asked)
    assert accounts.principal_of(text) is not None
    done = admin.post(url)

    assert (done.status_code, done["Location"]) == (303, "/settings/")
    assert accounts.principal_of(text) is None
    assert "is revoked" in text_of(admin.get("/settings/"))
    entry = models.AuditEntry.objects.get()
    assert (entry.verb, entry.target) == ("revoke token", "ci")


def test_a_second_click_revokes_nothing(admin: Client) -> None:
    token, _ = accounts.create_token("ci", "viewer")
    url = f"/settings/tokens/{token.token_key}/revoke"
    admin.post(url)

    again = admin.post(url)

    assert again.status_code == 303
    assert "was revoked before" in text_of(admin.get("/settings/"))
    assert models.AuditEntry.objects.count() == 1
    assert admin.get(url).status_code == 404


def test_forms_need_their_token_and_post() -> None:
    client = signed_in("admin", enforce_csrf_checks=True)
    token, _ = accounts.create_token("ci", "viewer")

    assert client.post("/settings/tokens", FORM).status_code == 403
    url = f"/settings/tokens/{token.token_key}/revoke"
    assert client.post(url).status_code == 403
    assert client.get("/settings/tokens").status_code == 405
    assert models.Token.objects.count() == 1


def test_whatever_a_token_is_called_is_shown_as_text(admin: Client) -> None:
    nasty = "<script>alert(1)</script>\"'&{{ 7*7 }}"
    accounts.create_token(nasty, "viewer", description=nasty)

    response = admin.get("/settings/")

    assert "{{ 7*7 }}" in looked_at(response).text
    assert "<script>alert" not in text_of(response)


def test_an_ended_token_stays_in_the_list_as_such(admin: Client) -> None:
    token, _ = accounts.create_token("old", "viewer")
    token.expiry = token.created
    token.save()

    text = looked_at(admin.get("/settings/")).text

    assert "old" in text and "ended" in text
