"""A page that says what it was told of its request."""

from __future__ import annotations

from typing import Any

from django.http import JsonResponse
from django.urls import path


def page(request: Any, name: str) -> Any:
    """Tell it."""
    root = request.META["SCRIPT_NAME"]
    address = request.build_absolute_uri().partition("?")[0]
    return JsonResponse([name, request.GET["q"], root, request.headers["X-Word"], address], safe=False)


urlpatterns = [path("page/<path:name>", page)]
