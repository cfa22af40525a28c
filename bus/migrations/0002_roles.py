"""The roles as groups, so that /admin/ can give them to users."""

from __future__ import annotations

from typing import Any

from django.db import migrations

# As of this migration; later roles get one of their own.
_ROLES = ("viewer", "operator", "admin", "agent")


def make_groups(apps: Any, schema_editor: Any) -> None:
    group = apps.get_model("auth", "Group")
    for name in _ROLES:
        group.objects.get_or_create(name=name)


class Migration(migrations.Migration):
    dependencies = [
        ("bus", "0001_accounts"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [migrations.RunPython(make_groups, migrations.RunPython.noop)]
