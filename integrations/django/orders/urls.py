"""Below /api/v1/orders/."""

from django.urls import path

from orders import views

urlpatterns = [
    path("export", views.export),
    path("<int:order_id>", views.order_detail),
    path("<int:order_id>/pay", views.pay),
]
