import json
import sys

import django
import orders
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

import obskit


@csrf_exempt
def place(request):
    return JsonResponse(orders.place(json.loads(request.body)))


urlpatterns = [
    path("orders", place),
    path("stock", lambda request: JsonResponse(orders.stock())),
    path("report", csrf_exempt(lambda request: JsonResponse(orders.report()))),
]
settings.configure(
    SECRET_KEY="only for this test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=sys.modules[__name__],
    LOGGING_CONFIG=None,
)
django.setup()
app = obskit.install(get_wsgi_application(), instrumentation=False)
