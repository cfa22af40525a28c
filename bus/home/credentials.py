"""The first key to a local mesh: an admin with a password and a token, in one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db import transaction
from knox.crypto import hash_token

from .. import accounts, announcement, conf, models, owners, roles

USERNAME: Final = "admin"
MODE: Final = 0o600


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """What the file holds; `url` is where the web server was last."""

    url: str
    username: str
    password: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)


def path() -> Path:
    """The file; only its owner may read it."""
    return conf.var_dir() / "credentials.json"


def read() -> Credentials | None:
    """What the file holds, None where there is none or it is not in our form."""
    try:
        found = json.loads(path().read_text())
        return Credentials(**{name: str(found[name]) for name in _FIELDS})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def ensure(url: str) -> tuple[Credentials, bool]:
    """The credentials of this folder at `url`, and whether they were made just now.

    Made once and kept. Made anew where the file is gone, or where the database knows
    its token no more (revoked, or another database): its admin gets a new password
    then, since whoever can delete the file owns the folder. Raises OSError.
    """
    kept = read()
    made = kept is None or not _works(kept)
    if kept is None or made:
        kept = _make(url, _our_username(kept))
    kept = dataclasses.replace(kept, url=url)
    if kept != read() or path().stat().st_mode & 0o777 != MODE:
        _write(kept)
    return kept, made


def _works(kept: Credentials) -> bool:
    found = models.Token.objects.filter(digest=hash_token(kept.token))
    token = found.select_related("user").first()
    return token is not None and token.user.get_username() == kept.username


def _make(url: str, username: str) -> Credentials:
    password = secrets.token_urlsafe(15)
    # Together: a file that could not be written is made up for by the next start.
    with transaction.atomic():
        user = accounts.ensure_user(username, roles.ADMIN, password)
        models.Token.objects.filter(user=user, name=_token_name()).delete()
        _, token = accounts.create_token(_token_name(), roles.ADMIN, owner=user)
    return Credentials(url, username, password, token)


def _our_username(kept: Credentials | None) -> str:
    """`admin`, unless that is somebody else's in a database that folders share.

    Ours is told by its token, or by the password of the file: nobody else's password
    is ever reset.
    """
    users: Any = get_user_model().objects
    admin = users.filter(username=USERNAME).first()
    if admin is None:
        return USERNAME
    ours = models.Token.objects.filter(name=_token_name(), user=admin).exists()
    if ours or (kept is not None and admin.check_password(kept.password)):
        return USERNAME
    return f"{USERNAME}-{_folder()}"


def _token_name() -> str:
    return f"{owners.FOLDER}{_folder()}"


def _folder() -> str:
    """Tells this folder from others; its cookies end in the same."""
    return hashlib.sha256(str(conf.var_dir().resolve()).encode()).hexdigest()[:8]


def _write(kept: Credentials) -> None:
    text = json.dumps(dataclasses.asdict(kept), indent=2)
    fresh = path().with_name(f".credentials.{os.getpid()}")
    announcement.write_private(fresh, text + "\n")
    fresh.replace(path())  # a reader sees the old ones or the new ones, never half


_FIELDS: Final = [field.name for field in dataclasses.fields(Credentials)]
