"""Accounts: the principal behind a user or token; tokens made, looked up, revoked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils import timezone
from knox.crypto import hash_token
from knox.models import get_digest_token
from knox.settings import CONSTANTS

from . import databases, errors, keys, messages, models, owners, roles

# What a look into the database is worth. Open sockets and streams ask again every
# FEED_RECHECK_S (2.5 s): together a revoked token is out within 5 s everywhere.
BELIEVED_S: Final = 2.0
_KNOWN_MOST: Final = 10_000  # tokens a process remembers; ours are a few
_TEXT_MOST: Final = 200  # ours have 64 letters
_USED_EVERY: Final = timedelta(minutes=1)
_NAME_MOST: Final = 100
_DESCRIPTION_MOST: Final = 200
_PREFIXES_MOST: Final = 50

# Hash of the text -> principal, until when (monotonic). Only tokens that were right.
_known: Final[dict[bytes, tuple[roles.Principal, float]]] = {}
_changes = 0  # of tokens in this process: a look that began before one may be older


def remembered(text: bytes | str) -> roles.Principal | None:
    """What `principal_of` answered within the last 2 s, without a look; else None."""
    return believed(text)[0]


def believed(text: bytes | str) -> tuple[roles.Principal | None, float]:
    """`remembered`, and for how many seconds more."""
    found = _known.get(_mark(text))
    left_s = found[1] - time.monotonic() if found else 0.0
    return (found[0], left_s) if found and left_s > 0 else (None, 0.0)


def is_familiar(text: bytes | str) -> bool:
    """Whether this process has let the text in before, be that long ago."""
    return _mark(text) in _known


def principal_of(text: bytes | str, *, anew: bool = False) -> roles.Principal | None:
    """Whom the text of a bearer token stands for; None if it is wrong or has ended.

    Every door asks here, and nowhere else, with what stands behind `Bearer `: a call
    once, a socket or stream at its start and then every `conf.FEED_RECHECK_S`, to end
    when the answer is not the same principal any more. Answers are remembered for 2 s
    per process; a token revoked or changed here counts at once, elsewhere within that.
    `anew` looks again at what is remembered, before that is over.
    Whether the principal `may(verb)` and `may_topic(topic)` is for the caller to ask.
    Raises OperationalError where the database is away and nothing is remembered.
    """
    found, mark = None if anew else remembered(text), _mark(text)
    changes = _changes
    if found is not None or len(text) > _TEXT_MOST or not text.isascii():
        return found
    plain = text.decode() if isinstance(text, bytes) else text
    objects: Any = models.Token.objects
    token: models.Token | None = (
        objects.select_related("user").filter(digest=hash_token(plain)).first()
    )
    now = timezone.now()
    if token is None or not token.user.is_active or token.has_ended(now):
        _known.pop(mark, None)
        return None
    _used(token, now)
    principal = of_token(token)
    left_s = (token.expiry - now).total_seconds() if token.expiry else BELIEVED_S
    if anew and mark not in _known:
        return principal  # a token was changed meanwhile: this look may be older
    if len(_known) >= _KNOWN_MOST:
        _known.clear()
    _known[mark] = (principal, time.monotonic() + min(left_s, BELIEVED_S))
    if changes != _changes:  # asked behind the write: a change forgets it, or this does
        _known.pop(mark, None)
    return principal


async def aprincipal_of(
    text: bytes | str, *, anew: bool = False
) -> roles.Principal | None:
    """`principal_of` on an event loop: a thread only where it looks."""
    return (None if anew else remembered(text)) or await _alooked(text, anew)


@sync_to_async
def _alooked(text: bytes | str, anew: bool) -> roles.Principal | None:
    databases.drop_old()
    try:
        return principal_of(text, anew=anew)
    finally:
        databases.drop_old()


def _mark(text: bytes | str) -> bytes:
    """Remembered by a hash: no token lies about in the memory of a process."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return hashlib.sha256(raw).digest()


def _used(token: models.Token, now: Any) -> None:
    """Write down that a token is in use, at most once a minute: reads stay reads."""
    if token.last_used is None or now - token.last_used > _USED_EVERY:
        objects: Any = models.Token.objects
        try:
            objects.filter(pk=token.pk).update(last_used=now)
        except DatabaseError:  # locked by a writer, or read-only: no use is refused
            return


@receiver([post_save, post_delete], sender=models.Token)
def _forget(using: str = "", **_: Any) -> None:
    """Tokens changed in this process count at once; each change forgets all, and once
    more when it is committed: until then others see what was before."""
    global _changes
    _changes += 1
    _known.clear()
    if using and transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(_forget, using=using)


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
    name: str,
    role: str,
    topics: Iterable[str] = (),
    *,
    owner: Any = None,
    description: str = "",
    expires_at: datetime | None = None,
    maker: roles.Principal | None = None,
    by: str = "",
    once: str = "",
) -> tuple[models.Token, str]:
    """A new token and its text, which is shown this once and stored only as a hash.

    Without an `owner` it belongs to a service account of its own, which cannot sign
    in; tokens of one name share theirs, so that the next can be given out before the
    last is revoked. `maker` asks for it, none is who owns the machine, who is called
    `by`. Of calls with the same `once` the first makes a token. Raises InvalidOption
    for an unknown role, an odd name, description or topic prefix, or an `expires_at`
    that has passed; Conflict for a second call, or a name beyond the maker's topics.
    """
    name = _checked("token name", name, 1, _NAME_MOST)
    description = _checked("description", description, 0, _DESCRIPTION_MOST)
    if role not in roles.ROLES:
        known = ", ".join(roles.ROLES)
        raise errors.InvalidOption(f"no role {role!r:.80}; there are {known}")
    prefixes = list(dict.fromkeys(topics))
    if len(prefixes) > _PREFIXES_MOST:
        raise errors.InvalidOption(f"more than {_PREFIXES_MOST} topic prefixes")
    for prefix in prefixes:
        _check_prefix(prefix)
    if expires_at is not None and expires_at <= timezone.now():
        raise errors.InvalidOption(f"{expires_at.isoformat()} is over: no token")
    digest, text = get_digest_token()
    try:
        with transaction.atomic():
            token = models.Token(
                digest=digest,
                token_key=text[: CONSTANTS.TOKEN_KEY_LENGTH],
                user=owner or owners.service_account(name, maker),
                expiry=expires_at,
                name=name,
                description=description,
                role=role,
                topics=prefixes,
                made_by=(by or (maker.name if maker else ""))[:200],
                made_once=hash_token(once)[:64] if once else None,
            )
            token.save(force_insert=True)
    except IntegrityError:
        if not once:
            raise
        said = "this request has made a token before, whose text was shown that once"
        raise errors.Conflict(f"{said}; revoke it if that is lost") from None
    return token, text


def tokens(reader: roles.Principal) -> list[models.Token]:
    """All that the reader's own topics cover, the newest first; ended ones as well."""
    objects: Any = models.Token.objects
    found = objects.select_related("user").order_by("-created", "token_key")
    return [token for token in found if reader.covers(token.topics)]


def find_token(reader: roles.Principal, token_key: str) -> models.Token:
    """The token with this shown key; NotFound if there is none, or out of reach."""
    found = models.Token.objects.filter(token_key=token_key)
    token: models.Token
    for token in found if token_key.isalnum() else ():  # PostgreSQL has no NUL
        if reader.covers(token.topics):
            return token
    raise errors.NotFound(f"no token has the key {token_key!r:.40}")


def revoke_token(token_key: str) -> models.Token:
    """Delete the token whose shown key begins so; NotFound unless exactly one does."""
    found = list(models.Token.objects.filter(token_key__startswith=token_key)[:2])
    if not token_key or len(found) != 1:
        raise errors.NotFound(
            f"{'no' if not found else 'more than one'} token begins with {token_key!r}"
        )
    return revoke(found[0])


def revoke(token: models.Token) -> models.Token:
    """End a token, and its service account with the last one."""
    owner = token.user
    with transaction.atomic():
        # Whoever makes the next token of this name meanwhile waits, and then makes an
        # account as well: it would go with this one.
        owners.lock(owner)
        token.delete()
        last = owners.is_service(owner)
        if last and not models.Token.objects.filter(user=owner).exists():
            owner.delete()
    return token


def facts(token: models.Token) -> dict[str, Any]:
    """What of a token may be seen: never its text, nor its hash."""
    return {
        "key": token.token_key,
        "name": token.name,
        "description": token.description,
        "role": token.role,
        "topics": list(token.topics),
        "owner": token.user.get_username(),
        "made_by": token.made_by,
        "created_at": _iso(token.created),
        "expires_at": _iso(token.expiry),
        "last_used_at": _iso(token.last_used),
        "ended": token.has_ended(timezone.now()),
    }


def _check_prefix(prefix: str) -> None:
    try:
        keys.check_topic(prefix and f"{prefix}0")  # it may end in what a topic may not
    except errors.InvalidName:
        form = "topics are of a-z 0-9 : . _ - and start with a letter or digit"
        said = f"no topic begins with {prefix!r:.80}: {form}"
        raise errors.InvalidName(said) from None


def _iso(when: datetime | None) -> str | None:
    return None if when is None else messages.iso(round(when.timestamp() * 1000))


def _checked(what: str, text: str, least: int, most: int) -> str:
    """The text without blanks around it; InvalidOption for an odd length or letter."""
    plain = text.strip()
    if not text.isprintable() or not least <= len(plain) <= most:
        raise errors.InvalidOption(
            f"{what} {text!r:.80} is not {least} to {most} letters"
        )
    return plain


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
