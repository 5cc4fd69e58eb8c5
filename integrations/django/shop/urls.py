"""The whole URL map: health and log-in at the root, the API below /api/v1/."""

from django.urls import include, path
from orders import account, views

v1 = [
    path("orders", views.OrderCollection.as_view()),
    path("orders/", include("orders.urls")),
    path("reports/", include("orders.report_urls")),
    path("uploads", views.upload),
    path("fail", views.fail),
]

urlpatterns = [
    path("healthz", views.healthz),
    path("login", account.log_in),
    path("me", account.me),
    path("logout", account.log_out),
    path("api/", include([path("v1/", include(v1))])),
]
