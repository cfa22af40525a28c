"""Service accounts: one for all tokens of a name, and who may take that name."""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db.models import Q

from . import errors, roles

# How the token is named that a folder keeps for itself, in `var/credentials.json`.
FOLDER: Final = "credentials.json of folder "
_SERVICE: Final = "service:"


def service_account(name: str, maker: roles.Principal | None) -> Any:
    """The account of all tokens of this name, which cannot sign in; made if need be.

    What runs and what was done is told by name, so whoever is bound to topics takes no
    name that reaches beyond them: Conflict. No `maker` is who owns the machine.
    Call it in the transaction that makes the token.
    """
    if name.casefold().startswith(FOLDER.rstrip()):
        raise errors.InvalidOption(f"token name {name!r:.80} is that of a folder's own")
    users: Any = get_user_model().objects
    # Locked, so that nobody who revokes its last token takes it away meanwhile.
    locked = users.select_for_update()
    owner, new = locked.get_or_create(username=f"{_SERVICE}{name}")
    if new:
        owner.set_unusable_password()
        owner.save()
    if maker is not None and maker.topics:
        # Behind the account, which one of two at once makes: the other sees the token.
        called = Q(username=name) | Q(auth_token_set__name=name)
        found = {*users.filter(called)} | (set() if new else {owner})
        if not all(_is_within(maker, account) for account in found):
            said = f"the name {name!r} is taken by somebody beyond your topics"
            raise errors.Conflict(f"{said}; choose another")
    return owner


def lock(account: Any) -> None:
    """Keep it as it is for this transaction: in SQLite all others wait anyway."""
    users: Any = get_user_model().objects
    users.select_for_update().filter(pk=account.pk).first()


def _is_within(maker: roles.Principal, account: Any) -> bool:
    made = [*account.auth_token_set.all()]
    service = bool(made) and is_service(account)
    return service and all(maker.covers(token.topics) for token in made)


def is_service(account: Any) -> bool:
    """Whether it is an account of tokens alone, not one of somebody who signs in."""
    name: str = account.get_username()
    return name.startswith(_SERVICE) and not account.has_usable_password()
