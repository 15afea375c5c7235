"""The pages of the shop: views that block."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import path

from integration.web.shop.models import Thing
from integration.web.shop.watch import stay


def echo(request: Any, number: int) -> Any:
    """Answer with what was sent."""
    return JsonResponse({"page": number, "sent": json.loads(request.body), "asked": request.GET["q"]})


def things(request: Any, owner: str) -> Any:
    """Add things of an owner (POST), or stream them, row for row (GET)."""
    name = request.get_full_path()
    if request.method == "POST":
        with transaction.atomic():
            for number in json.loads(request.body):
                Thing.objects.create(owner=owner, number=number)
            count = Thing.objects.filter(owner=owner).count()
        return JsonResponse({"owner": owner, "count": count})

    def lines() -> Iterator[str]:
        for thing in Thing.objects.filter(owner=owner).order_by("number").iterator(chunk_size=3):
            stay("step", name)
            yield f"{thing.owner} {thing.number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def upload(request: Any) -> Any:
    """Tell of a form with a file."""
    file = request.FILES["file"]
    digest = sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    told = [request.POST["name"], file.name, file.size, digest.hexdigest(), type(file).__name__]
    return JsonResponse(told, safe=False)


def count(request: Any) -> Any:
    """Count the visits of a session."""
    request.session["count"] = request.session.get("count", 0) + 1
    request.session.setdefault("name", request.GET["name"])
    return JsonResponse([request.session["name"], request.session["count"]], safe=False)


def send(request: Any, kind: str) -> Any:
    """Send a file: from its beginning, from its middle, or from memory."""
    file: Any = open(settings.SHOP_FILE, "rb")  # noqa: SIM115  # Django closes it
    if kind == "memory":
        with file:
            file = io.BytesIO(file.read())
    elif kind == "rest":
        file.seek(1000)
    return FileResponse(file, filename="loom.bin", as_attachment=kind == "attachment")


def fails(request: Any) -> Any:
    """Fail at once, or amid a stream, or with a transaction open."""
    how = request.GET["how"]
    if how == "stream":

        def lines() -> Iterator[str]:
            yield "begun\n"
            raise LookupError(how)

        return StreamingHttpResponse(lines())
    with transaction.atomic():
        Thing.objects.create(owner="nobody", number=0)
        raise LookupError(how)


def endless(request: Any) -> Any:
    """Stream without an end, from the database."""

    def lines() -> Iterator[str]:
        yield "begun\n"
        while True:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                yield "more" * 1000 * cursor.fetchone()[0]

    return StreamingHttpResponse(lines())


async def later(request: Any, owner: str) -> Any:
    """Ask the database from a view that is a coroutine function."""
    owned = Thing.objects.filter(owner=owner)
    await Thing.objects.acreate(owner=owner, number=0)
    return JsonResponse({"owner": owner, "count": await owned.acount()})


urlpatterns = [
    path("echo/<int:number>", echo),
    path("things/<str:owner>", things),
    path("later/<str:owner>", later),
    path("upload", upload),
    path("count", count),
    path("send/<str:kind>", send),
    path("fails", fails),
    path("endless", endless),
    path("leads", lambda request: HttpResponseRedirect(f"/echo/{request.GET['q']}")),
    path("gone", lambda request: HttpResponse(status=204)),
]
