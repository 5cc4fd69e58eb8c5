"""ASGI entry point: uvicorn shop.asgi:application"""

import os

from django.core.asgi import get_asgi_application

import obskit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
# Under ASGI a synchronous view gets a thread of its own per request, so a connection kept for the next
# request of that thread would be kept for nobody.
os.environ["SHOP_CONN_MAX_AGE"] = "0"

application = obskit.install(get_asgi_application())
