"""Accounts: the principal behind a user or token; tokens made, looked up, revoked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from . import errors, keys, models, roles

_NAME_MOST = 100


def of_user(user: Any) -> roles.Principal:
    """The principal of a signed-in user; its role is the highest of its groups."""
    if user.is_superuser:
        role = roles.ADMIN
    else:
        names = set(user.groups.values_list("name", flat=True))
        role = next((each for each in roles.ROLES if each in names), "")
    return roles.Principal(f"user:{user.pk}", user.get_username(), role)


def of_token(token: models.Token) -> roles.Principal:
    """The principal of a token: its own role and topics, not those of its owner."""
    key = f"token:{token.digest[:32]}"
    return roles.Principal(key, token.name, token.role, tuple(token.topics))


def create_token(
    name: str, role: str, topics: Iterable[str] = (), *, owner: Any = None
) -> tuple[models.Token, str]:
    """A new token and its text, which is shown this once and stored only as a hash.

    Without an `owner` it belongs to a service account of its own, which cannot sign
    in. Raises InvalidOption for an unknown role, an odd name or topic prefix.
    """
    if not name.isprintable() or not 0 < len(name.strip()) <= _NAME_MOST:
        raise errors.InvalidOption(f"token name {name!r:.80} is not 1 to 100 letters")
    if role not in roles.ROLES:
        raise errors.InvalidOption(
            f"no role {role!r:.80}; there are {', '.join(roles.ROLES)}"
        )
    prefixes = list(topics)
    for prefix in prefixes:
        keys.check_topic(f"{prefix}0")  # a prefix may end in what a topic may not
    if owner is None:
        owner = _service_account(name)
    objects: Any = models.Token.objects
    token, text = objects.create(
        owner, expiry=None, name=name.strip(), role=role, topics=prefixes
    )
    return token, text


def revoke_token(token_key: str) -> models.Token:
    """Delete the token whose shown key begins so; NotFound unless exactly one does."""
    found = list(models.Token.objects.filter(token_key__startswith=token_key)[:2])
    if not token_key or len(found) != 1:
        raise errors.NotFound(
            f"{'no' if not found else 'more than one'} token begins with {token_key!r}"
        )
    found[0].delete()
    token: models.Token = found[0]
    return token


def ensure_user(username: str, role: str, password: str) -> Any:
    """The user with this role and password, made or changed; admins get /admin/."""
    users: Any = get_user_model().objects
    user, _ = users.get_or_create(username=username)
    user.set_password(password)
    user.is_active = True
    user.is_staff = user.is_superuser = role == roles.ADMIN
    user.save()
    user.groups.set([Group.objects.get(name=role)])
    return user


def _service_account(name: str) -> Any:
    user, created = get_user_model().objects.get_or_create(
        username=f"service:{name.strip()}"
    )
    if created:
        user.set_unusable_password()
        user.save()
    return user
