"""gunicorn -c gunicorn.conf.py wsgi:app"""

import os

bind = os.environ.get("SHOP_BIND", "127.0.0.1:8002")
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 8
timeout = 30
graceful_timeout = 10
# Renew workers now and then, not all at the same moment.
max_requests = 50_000
max_requests_jitter = 5_000
# Its default place is one file per user: two shops on one machine would fight for it.
control_socket_disable = True
