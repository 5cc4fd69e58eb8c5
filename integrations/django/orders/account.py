"""Log-in with a session kept in the database."""

from __future__ import annotations

import logging

from django.contrib.auth import authenticate, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST, require_safe

from orders.api import error, json_api
from orders.inputs import credentials, json_object

log = logging.getLogger(__name__)


@json_api
@require_POST
def log_in(request: HttpRequest) -> HttpResponse:
    username, password = credentials(json_object(request))
    user = authenticate(request, username=username, password=password)
    if user is None:
        log.warning("login refused")
        return error(401, "wrong user name or password")
    login(request, user)
    log.info("user logged in", extra={"user_id": user.pk})
    return JsonResponse({"username": user.get_username()})


@require_safe
def me(request: HttpRequest) -> JsonResponse:
    if not request.user.is_authenticated:
        return error(401, "not logged in")
    return JsonResponse({"username": request.user.get_username()})


@json_api
@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse(status=204)
