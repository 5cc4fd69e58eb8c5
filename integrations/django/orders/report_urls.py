"""Below /api/v1/reports/."""

from django.urls import path, re_path

from orders import reports

urlpatterns = [
    path("slow", reports.slow_report),
    re_path(r"^(?P<year>[12][0-9]{3})/$", reports.year_report),
]
