"""What every JSON endpoint shares: no CSRF token asked for, and one shape for every error."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from orders.inputs import InvalidInput

View = Callable[..., HttpResponseBase]


def error(status: int, message: str, **facts: Any) -> JsonResponse:
    """An error answer: {"error": message, ...facts}."""
    return JsonResponse({"error": message, **facts}, status=status)


def json_api(view: View) -> View:
    """Turns InvalidInput into 422 and asks for no CSRF token.

    A form on a foreign site cannot send application/json without a CORS preflight, which nothing here grants.
    """

    @csrf_exempt
    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except InvalidInput as invalid:
            return error(422, "invalid input", fields=invalid.fields)

    return answer
