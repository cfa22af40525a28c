"""The rows that migrations write, put back behind a test that empties the database.

Django's own way, `serialized_rollback`, makes an object of each row, before each test.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import connection, transaction

_rows: Final[dict[str, list[tuple[Any, ...]]]] = {}


def note() -> None:
    """Read what there is; from now on Django's own way does nothing."""
    with connection.cursor() as cursor:
        for table in connection.introspection.django_table_names(only_existing=True):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            if found := cursor.fetchall():
                _rows[table] = found
    # Not absent: then emptying the database would send Django's signal of a migration.
    connection._test_serialized_contents = "[]"  # type: ignore[attr-defined]


def put_back() -> None:
    """Write what was noted into the tables, which are empty."""
    # References between tables are looked at as the transaction ends.
    with transaction.atomic(), connection.cursor() as cursor:
        for table, rows in _rows.items():
            places = ", ".join(["%s"] * len(rows[0]))
            into = f"INSERT INTO {connection.ops.quote_name(table)} VALUES ({places})"
            cursor.executemany(into, rows)
