"""Tokens over REST: made, listed, revoked, by admins within their own topics."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from bus import accounts, errors, models, roles
from tests.support.api import Api, api, problem, send

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]
ASKED = {
    "name": "resizer",
    "role": "agent",
    "topics": ["images:"],
    "description": "The agents on host 7",
}


def keys(client: Api) -> list[str]:
    return [row["key"] for row in client.get("tokens").json()["tokens"]]


def test_a_token_is_made_and_its_text_is_shown_this_once() -> None:
    admin = api("admin")

    made = admin.post("tokens", ASKED)

    assert made.status_code == 201 and made["Cache-Control"] == "no-store"
    row = made.json()
    text, key = row.pop("token"), row["key"]
    assert made["Location"] == f"/api/v1/mesh/tokens/{key}"
    assert {name: row[name] for name in ASKED} == ASKED
    assert (row["owner"], row["made_by"]) == ("service:resizer", "test admin")
    assert (row["expires_at"], row["last_used_at"], row["ended"]) == (None, None, False)
    again = admin.get(f"tokens/{key}")
    assert again.json() == row and text not in again.content.decode()
    assert text not in admin.get("tokens").content.decode()
    found = models.Token.objects.get(token_key=key)
    assert text not in str(vars(found)) and text[len(key) :] not in str(vars(found))


def test_it_does_what_its_role_does_in_its_topics() -> None:
    told = api("admin").post("tokens", {**ASKED, "role": "operator"}).json()
    client = Api(told["token"])

    send(client, "images:small")
    problem(
        client.post("enqueue", {"topic": "image", "task": 1}), 403, "topic_not_allowed"
    )
    problem(client.get("tokens"), 403, "permission_denied")
    row = api("admin").get(f"tokens/{told['key']}").json()
    assert row["last_used_at"] is not None


def test_a_revoked_token_ends_at_once_and_its_service_account_with_it() -> None:
    admin = api("admin")
    first, second = (
        admin.post("tokens", {**ASKED, "role": "viewer"}).json() for _ in range(2)
    )
    users = get_user_model().objects.filter(username="service:resizer")
    assert users.count() == 1  # so that the next is given out before the last ends
    assert Api(first["token"]).get("topics").status_code == 200

    gone = admin.delete(f"tokens/{first['key']}")

    assert gone.status_code == 204 and gone.content == b""
    problem(Api(first["token"]).get("topics"), 401, "invalid_token")
    assert Api(second["token"]).get("topics").status_code == 200
    assert users.exists()
    problem(admin.delete(f"tokens/{first['key']}"), 404, "not_found")
    admin.delete(f"tokens/{second['key']}")
    assert not users.exists()


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_a_token_made_while_the_last_of_its_name_is_revoked_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, _ = accounts.create_token("resizer", "viewer")
    users, made = get_user_model(), []
    delete = users.delete

    def make() -> None:
        made.append(accounts.create_token("resizer", "viewer")[1])
        connection.close()

    def slowly(account: Any) -> Any:
        maker.start()
        maker.join(0.3)
        return delete(account)

    maker = threading.Thread(target=make)
    monkeypatch.setattr(users, "delete", slowly)
    accounts.revoke(old)
    maker.join(30)

    [text] = made
    assert accounts.principal_of(text)


def test_only_a_whole_key_is_revoked() -> None:
    admin = api("admin")
    key = admin.post("tokens", ASKED).json()["key"]

    problem(admin.delete(f"tokens/{key[:-1]}"), 404, "not_found")
    problem(admin.get(f"tokens/{key[:-1]}"), 404, "not_found")

    assert key in keys(admin)


def test_what_cannot_be_a_key_is_not_looked_up(django_assert_num_queries: Any) -> None:
    """PostgreSQL would fail on NUL."""
    reader = roles.Principal("k", "admin", roles.ADMIN)

    with django_assert_num_queries(0), pytest.raises(errors.NotFound):
        accounts.find_token(reader, "a\0b")


def test_a_token_ends_when_it_said() -> None:
    admin = api("admin")
    at = (timezone.now() + timedelta(hours=1)).replace(microsecond=0)
    told = admin.post("tokens", {**ASKED, "role": "viewer", "expires_at": at}).json()
    assert told["expires_at"] == f"{at:%Y-%m-%dT%H:%M:%S}.000Z"
    assert Api(told["token"]).get("topics").status_code == 200

    token = models.Token.objects.get(token_key=told["key"])
    token.expiry = timezone.now()
    token.save()

    problem(Api(told["token"]).get("topics"), 401, "invalid_token")
    assert admin.get(f"tokens/{told['key']}").json()["ended"] is True  # until revoked


@pytest.mark.parametrize(
    ("value", "code", "says"),
    [
        ([], "invalid", "is not a JSON object"),
        ({}, "invalid", "/name is missing"),
        ({"name": "x"}, "invalid", "/role is missing"),
        ({"name": "x", "role": "boss"}, "invalid_option", "no role 'boss'"),
        ({"name": " ", "role": "viewer"}, "invalid_option", "not 1 to 100 letters"),
        ({"name": "x" * 101, "role": "viewer"}, "invalid_option", "1 to 100"),
        ({"name": "x\n", "role": "viewer"}, "invalid_option", "1 to 100"),
        ({"name": 7, "role": "viewer"}, "invalid", "/name is not a text"),
        (
            {**ASKED, "topics": "images:"},
            "invalid",
            "/topics is not a list of texts",
        ),
        ({**ASKED, "topics": [1]}, "invalid", "/topics is not a list of texts"),
        ({**ASKED, "topics": ["a", ""]}, "invalid_name", "no topic begins with ''"),
        ({**ASKED, "topics": ["No"]}, "invalid_name", "no topic begins with 'No'"),
        ({**ASKED, "topics": ["a"] + [f"t{n}" for n in range(50)]}, "invalid_option",
         "more than 50"),
        ({**ASKED, "description": "x" * 201}, "invalid_option", "0 to 200"),
        ({**ASKED, "expires_at": "tomorrow"}, "invalid", "is not a time"),
        ({**ASKED, "expires_at": "9999-12-31T23:59:59-23:59"}, "invalid", "not a time"),
        ({**ASKED, "expires_at": "2020-01-01T00:00:00Z"}, "invalid_option", "is over"),
        ({**ASKED, "owner": "admin"}, "invalid", "/owner is unknown"),
    ],
)  # fmt: skip
def test_odd_wishes_are_422_and_make_nothing(value: Any, code: str, says: str) -> None:
    admin = api("admin")

    document = problem(admin.post("tokens", value), 422, code)

    assert says in document["detail"]
    assert models.Token.objects.count() == 1
    assert models.AuditEntry.objects.count() == 0


def test_a_list_asks_the_database_once_however_long_it_is(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    for n in range(5):
        accounts.create_token(f"agent {n}", "agent")
    admin = roles.Principal("token:x", "x", roles.ADMIN)

    with django_assert_num_queries(1):
        told = [accounts.facts(each) for each in accounts.tokens(admin)]

    assert {row["owner"] for row in told} == {f"service:agent {n}" for n in range(5)}


def test_a_repeat_makes_no_second_token() -> None:
    admin, other = api("admin"), api("admin")

    assert admin.post("tokens", ASKED, Idempotency_Key="k1").status_code == 201
    problem(admin.post("tokens", ASKED, Idempotency_Key="k1"), 409, "conflict")
    assert other.post("tokens", ASKED, Idempotency_Key="k1").status_code == 201
    assert admin.post("tokens", ASKED).status_code == 201
    assert models.Token.objects.filter(name="resizer").count() == 3


def test_what_is_done_to_tokens_is_on_the_trail_without_their_text() -> None:
    admin = api("admin")
    told = admin.post("tokens", ASKED).json()
    admin.delete(f"tokens/{told['key']}")

    made, revoked = models.AuditEntry.objects.order_by("pk")

    assert (made.verb, made.target, made.who) == (
        "create token",
        "resizer",
        "test admin",
    )
    assert made.before is None and made.after["key"] == told["key"]
    assert (revoked.verb, revoked.after) == ("revoke token", None)
    assert revoked.before["role"] == "agent"
    for entry in (made, revoked):
        assert told["token"] not in str(vars(entry))


def test_the_list_goes_page_by_page_the_newest_first(
    redis_client: redis.Redis,
) -> None:
    admin = api("admin")
    made = [
        admin.post("tokens", {**ASKED, "name": f"t{n}"}).json()["key"] for n in range(4)
    ]

    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = admin.get("tokens", count=2, **cursor).json()
        assert len(page["tokens"]) <= 2
        found += [row["key"] for row in page["tokens"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert found[:4] == made[::-1] and len(found) == 5  # and the admin's own
    problem(admin.get("tokens", cursor="x"), 422, "invalid_option")
    problem(admin.get("tokens", role="viewer"), 422, "invalid")


# --- admins that are bound to topics


def test_a_bound_admin_makes_only_tokens_within_its_own_topics() -> None:
    bound = api("admin", ("a:", "b:"))

    assert bound.post("tokens", {**ASKED, "topics": ["a:x", "b:"]}).status_code == 201
    for topics in ([], ["a"], ["a:", "c:"]):
        refused = bound.post("tokens", {**ASKED, "topics": topics})
        problem(refused, 403, "topic_not_allowed")
    without = {name: ASKED[name] for name in ("name", "role")}
    problem(bound.post("tokens", without), 403, "topic_not_allowed")
    assert models.Token.objects.count() == 2


def test_a_bound_admin_neither_sees_nor_revokes_others() -> None:
    bound, free = api("admin", ("a:",)), api("admin")
    mine = bound.post("tokens", {**ASKED, "topics": ["a:x"]}).json()["key"]
    theirs = free.post("tokens", {**ASKED, "topics": ["b:"]}).json()["key"]
    whole = free.post("tokens", {"name": "all", "role": "viewer"}).json()["key"]

    assert mine in keys(bound) and not {theirs, whole} & {*keys(bound)}
    for key in (theirs, whole):
        problem(bound.get(f"tokens/{key}"), 404, "not_found")
        problem(bound.delete(f"tokens/{key}"), 404, "not_found")
    assert {mine, theirs, whole} <= {*keys(free)}
    assert bound.delete(f"tokens/{mine}").status_code == 204


def test_what_the_database_refuses_for_another_reason_is_no_second_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accounts.create_token("a", "viewer")
    [known] = models.Token.objects.filter(name="a")
    monkeypatch.setattr(accounts, "get_digest_token", lambda: (known.digest, "x" * 64))

    with pytest.raises(IntegrityError):
        accounts.create_token("b", "viewer")


def test_a_bound_admin_takes_no_name_of_somebody_beyond_its_topics() -> None:
    """By its name it would be told of the other's generations, and end them."""
    bound, free = api("admin", ("a:",)), api("admin")
    free.post("tokens", {**ASKED, "name": "theirs", "topics": ["b:"]})
    free.post("tokens", {**ASKED, "name": "both", "topics": ["a:"]})
    free.post("tokens", {**ASKED, "name": "both", "topics": ["b:"]})
    free.post("tokens", {**ASKED, "name": "all", "topics": []})
    person = accounts.ensure_user("ada", roles.VIEWER, "a long password")
    accounts.create_token("laptop of ada", "viewer", ["a:"], owner=person)
    get_user_model().objects.create(username="service:without tokens")
    before = models.Token.objects.count()

    for name in ("theirs", "both", "all", "ada", "laptop of ada", "without tokens"):
        refused = bound.post("tokens", {**ASKED, "name": name, "topics": ["a:"]})
        assert "beyond" in problem(refused, 409, "conflict")["detail"], name

    assert models.Token.objects.count() == before
    for _ in range(2):  # its own name it has again
        mine = bound.post("tokens", {**ASKED, "name": "mine", "topics": ["a:x"]})
        assert mine.status_code == 201 and mine.json()["owner"] == "service:mine"
    for name in ("theirs", "ada"):  # who has all topics may
        assert free.post("tokens", {**ASKED, "name": name}).status_code == 201


def test_a_name_refused_leaves_no_account() -> None:
    bound = api("admin", ("a:",))
    accounts.ensure_user("ada", roles.VIEWER, "a long password")

    bound.post("tokens", {**ASKED, "name": "ada", "topics": ["a:"]})

    assert not get_user_model().objects.filter(username="service:ada").exists()


@pytest.mark.parametrize(
    "name", ["credentials.json of folder 0a", "CREDENTIALS.json of folder"]
)
def test_nobody_takes_the_name_of_a_folders_own_token(name: str) -> None:
    for topics in ((), ("a:",)):
        refused = api("admin", topics).post(
            "tokens", {**ASKED, "name": name, "topics": ["a:"]}
        )
        assert "folder" in problem(refused, 422, "invalid_option")["detail"]

    with pytest.raises(errors.InvalidOption):
        accounts.create_token(name, roles.VIEWER)


def test_a_conflict_leaves_the_database_usable() -> None:
    accounts.create_token("a", "viewer", once="same")

    for _ in range(2):
        with pytest.raises(accounts.errors.Conflict, match="has made a token before"):
            accounts.create_token("a", "viewer", once="same")

    assert models.Token.objects.filter(name="a").count() == 1
