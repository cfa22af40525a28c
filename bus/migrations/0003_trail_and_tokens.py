"""From where an action came, what it changed; what tokens are for, who made them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("bus", "0002_roles"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="address",
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="after",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="before",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="door",
            field=models.CharField(blank=True, max_length=16),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="request_id",
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name="token",
            name="description",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.AddField(
            model_name="token",
            name="made_by",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.AddField(
            model_name="token",
            name="made_once",
            field=models.CharField(
                editable=False, max_length=64, null=True, unique=True
            ),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="topic",
            field=models.CharField(blank=True, db_index=True, max_length=64),
        ),
    ]
