"""The user demo/demo, for a laptop; SEED_DEMO_USER=0 leaves it out."""

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import migrations


def add_demo_user(apps, schema_editor):
    if settings.SEED_DEMO_USER:
        user = apps.get_model("auth", "User")
        user.objects.get_or_create(username="demo", defaults={"password": make_password("demo")})


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length")]
    operations = [migrations.RunPython(add_demo_user, migrations.RunPython.noop)]
