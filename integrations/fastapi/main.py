"""ASGI entry point: uvicorn main:app"""

from shop import create_app

import obskit

app = obskit.install(create_app())
