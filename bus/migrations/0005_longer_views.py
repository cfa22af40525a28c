"""Saved views hold filters of whatever script: percent-encoded they are long."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("bus", "0004_saved_views")]

    operations = [
        migrations.AlterField("savedview", "query", models.CharField(max_length=4000)),
    ]
