"""`manage.py token`: tokens for clients and agents."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, OperationalError, ProgrammingError
from django.utils import timezone

from bus import accounts, models, roles
from bus.management import output, trail
from bus.management.command import MeshCommand
from bus.management.options import number


class Command(MeshCommand):
    help = "Make, list and revoke the tokens of clients and agents."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="make one; its text is shown once")
        create.add_argument("name", help="who will use it, for the list and the trail")
        create.add_argument(
            "--role",
            required=True,
            choices=roles.ROLES,
            help="what it may do; agent: registry and lease protocol only",
        )
        create.add_argument(
            "--topic",
            action="append",
            default=[],
            metavar="PREFIX",
            help="only topics that begin so; may be repeated (default: all)",
        )
        create.add_argument(
            "--days",
            type=number(1, 3650),
            metavar="N",
            help="how long it lasts (default: until it is revoked)",
        )
        create.add_argument(
            "--description", default="", metavar="TEXT", help="what for, where it lies"
        )
        listed = verbs.add_parser("list", help="show all, newest first")
        listed.add_argument("--json", action="store_true", help="one object a line")
        revoke = verbs.add_parser("revoke", help="end one, at once")
        revoke.add_argument("key", help="its key in the list, or the beginning of it")

    def handle(self, *args: Any, **options: Any) -> None:
        verb = {"create": self._create, "list": self._list, "revoke": self._revoke}
        try:
            with output.bus_errors():
                verb[options["verb"]](options)
        except DatabaseError as exc:
            raise CommandError(
                f"the database cannot be used: {exc}; {_way_out(exc)}",
                returncode=output.EXIT_UNAVAILABLE,
            ) from exc

    def _create(self, options: dict[str, Any]) -> None:
        days = options["days"]
        made, text = accounts.create_token(
            options["name"],
            options["role"],
            options["topic"],
            description=options["description"],
            expires_at=timezone.now() + timedelta(days=days) if days else None,
            by=trail.who().name,
        )
        trail.record("create token", target=made.name, after=accounts.facts(made))
        # Alone on stdout, for TOKEN=$(manage.py token create …).
        self.stdout.write(text)
        self.stderr.write(
            f"Token of {output.plain(made.name)}, role {made.role}, topics "
            f"{_topics(made)}. Shown this once; its key is {made.token_key}."
        )

    def _list(self, options: dict[str, Any]) -> None:
        found = models.Token.objects.select_related("user").order_by("-created")
        if options["json"]:
            for each in found:
                self.stdout.write(output.json_line(accounts.facts(each)))
            return
        shown = output.table(
            "key", "name", "role", "topics", "made", "last used", "ends"
        )
        now = timezone.now()
        for each in found:
            shown.add_row(
                each.token_key,
                output.cell(each.name),
                each.role,
                _topics(each),
                f"{each.created:%Y-%m-%d %H:%M}",
                f"{each.last_used:%Y-%m-%d %H:%M}" if each.last_used else "–",
                _end(each, now),
            )
        output.console(self.stdout).print(shown)

    def _revoke(self, options: dict[str, Any]) -> None:
        ended = accounts.revoke_token(options["key"])
        before = accounts.facts(ended)
        trail.record("revoke token", target=ended.name, before=before)
        self.stdout.write(f"Token of {output.plain(ended.name)} ended.")


def _way_out(exc: DatabaseError) -> str:
    # PostgreSQL has another name for a table that is not there.
    if isinstance(exc, (OperationalError, ProgrammingError)):
        return "`make run` makes and migrates it, or type manage.py migrate"
    return "look at DATABASE_URL and MESH_VAR_DIR"  # a file that is no database, say


def _end(token: models.Token, now: datetime) -> str:
    if token.has_ended(now):
        return "ended"
    return f"{token.expiry:%Y-%m-%d %H:%M}" if token.expiry else "–"


def _topics(token: models.Token) -> str:
    return ", ".join(f"{prefix}…" for prefix in token.topics) or "all"
