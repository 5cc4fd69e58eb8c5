"""WSGI entry point: gunicorn -c gunicorn.conf.py wsgi:app"""

from shop import create_app

import obskit

app = obskit.install(create_app())
