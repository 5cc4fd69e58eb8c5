"""Settings of the shop. What differs between machines comes from the environment (see README.md)."""

import os
from pathlib import Path

from shop.database import database_settings

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "dev-only-change-me-in-production")
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "orders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
ASGI_APPLICATION = "shop.asgi.application"

DATABASES = {
    "default": database_settings(
        os.environ.get("DATABASE_URL"),
        os.environ.get("SHOP_DB_PATH", "shop.sqlite3"),
        int(os.environ.get("SHOP_CONN_MAX_AGE", "60")),
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

SESSION_ENGINE = "django.contrib.sessions.backends.db"
SESSION_COOKIE_SECURE = os.environ.get("SECURE_COOKIES") == "1"
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# No LOGGING here: obskit.install, called in wsgi.py and asgi.py, sends every logger of the process one way.

PAYMENTS_URL = os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8900").rstrip("/")
MAX_UPLOAD_BYTES = 50 * 1024 * 1024
# A log-in that everybody knows is for a laptop; set SEED_DEMO_USER=0 before the first migrate elsewhere.
SEED_DEMO_USER = os.environ.get("SEED_DEMO_USER", "1") == "1"
