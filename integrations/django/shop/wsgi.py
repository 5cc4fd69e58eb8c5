"""WSGI entry point: gunicorn -c gunicorn.conf.py shop.wsgi"""

import os

from django.core.wsgi import get_wsgi_application

import obskit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = obskit.install(get_wsgi_application())
