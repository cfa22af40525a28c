"""Signing in and out of the dashboard, and the theme it comes in."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from django.conf import settings as site
from django.contrib.auth import get_user_model
from django.test import Client

from tests.support.pages import PASSWORD, looked_at, signed_in, user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def sign_in(client: Client, name: str, password: str = PASSWORD, **more: str) -> Any:
    return client.post("/login/", {"username": name, "password": password, **more})


def test_the_form_has_labels_and_helps_password_managers(client: Client) -> None:
    seen = looked_at(client.get("/login/"))

    assert [each.get("autocomplete") for each in seen.fields] == [
        "username",
        "current-password",
    ]


def test_it_leads_to_where_one_was_going(client: Client) -> None:
    user("vera", "viewer")
    form = client.get("/login/?next=/dead/%3Ftopic%3Ddemo")

    response = sign_in(client, "vera", next=form.context["next"])

    assert response.status_code == 303
    assert response["Location"] == "/dead/?topic=demo"
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example/x", ""])
def test_it_leads_nowhere_outside(target: str, client: Client) -> None:
    user("vera", "viewer")

    response = sign_in(client, "vera", next=target)

    assert response["Location"] == "/"


def test_a_wrong_password_and_an_unknown_name_look_the_same(client: Client) -> None:
    user("vera", "viewer")
    inactive = user("ivan", "viewer")
    get_user_model().objects.filter(pk=inactive.pk).update(is_active=False)

    answers = [
        sign_in(client, "vera", "wrong"),
        sign_in(client, "nobody", "wrong"),
        sign_in(client, "ivan"),
        sign_in(client, ""),
    ]

    assert {answer.status_code for answer in answers} == {422}
    assert len({answer.context["error"] for answer in answers}) == 1
    assert "do not match" in looked_at(answers[0]).text
    assert PASSWORD not in answers[2].content.decode()


def test_guessing_is_slowed_down_with_a_clear_wait(client: Client) -> None:
    user("vera", "viewer")

    answers = [sign_in(client, "vera", f"guess-{at}") for at in range(12)]
    right = sign_in(client, "VERA ")
    other = sign_in(client, "somebody else", "wrong")

    assert [answer.status_code for answer in answers] == [422] * 10 + [429] * 2
    seconds = int(answers[-1]["Retry-After"])
    assert 1 <= seconds <= 10
    assert f"Please wait {seconds} s" in looked_at(answers[-1]).text
    assert right.status_code == 429  # also the right one has to wait
    assert other.status_code == 422


def test_the_session_gets_another_key_at_sign_in(client: Client) -> None:
    user("vera", "viewer")
    client.session["x"] = 1
    session = client.session
    session["x"] = 1
    session.save()
    client.cookies[site.SESSION_COOKIE_NAME] = session.session_key

    sign_in(client, "vera")

    assert client.cookies[site.SESSION_COOKIE_NAME].value != session.session_key


def test_it_needs_the_token_of_its_form() -> None:
    user("vera", "viewer")

    response = sign_in(Client(enforce_csrf_checks=True), "vera")

    assert response.status_code == 403
    assert "out of date" in looked_at(response).text


def test_signing_out_ends_the_session() -> None:
    client = signed_in("viewer")

    by_link = client.get("/logout")
    response = client.post("/logout")

    assert by_link.status_code == 405
    assert (response.status_code, response["Location"]) == (303, "/login/")
    assert client.get("/").status_code == 302


def test_somebody_signed_in_is_sent_on() -> None:
    response = signed_in("viewer").get("/login/?next=/agents/")

    assert (response.status_code, response["Location"]) == (303, "/agents/")


def test_without_redis_nobody_can_guess(client: Client, failure_simulator: Any) -> None:
    user("vera", "viewer")
    failure_simulator.unreachable()

    response = sign_in(client, "vera")

    assert response.status_code == 503
    looked_at(response)


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
def test_the_next_page_comes_in_the_chosen_theme(theme: str) -> None:
    client = signed_in("viewer")

    response = client.post("/theme", {"theme": theme, "next": "/agents/"})
    page = client.get(response["Location"]).content.decode()

    assert response["Location"] == "/agents/"
    assert f'<html lang="en" data-theme="{theme}">' in page


def test_an_odd_theme_is_no_theme(redis_client: redis.Redis) -> None:
    client = signed_in("viewer")
    client.post("/theme", {"theme": '"><script>'})
    client.cookies[site.SESSION_COOKIE_NAME.replace("session", "theme")] = "<b>"

    page = client.get("/").content.decode()

    assert 'data-theme="auto"' in page
