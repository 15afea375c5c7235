"""The Django project, set up in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections

from integration.web.served import content_of
from integration.web.shop.watch import LOG

SIZE = 1_000_000  # bytes of its files


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set the project up, which is done once a process; return its folder."""
    folder = tmp_path_factory.mktemp("shop")
    os.environ["DJANGO_SETTINGS_MODULE"] = "integration.web.shop.settings"
    try:
        django.setup()
    finally:
        del os.environ["DJANGO_SETTINGS_MODULE"]
    connections["default"].settings_dict["NAME"] = str(folder / "shop.sqlite3")
    call_command("migrate", run_syncdb=True, verbosity=0)
    connections.close_all()
    static = folder / "static"
    static.mkdir()
    (static / "style.css").write_text("body {}")
    (static / "style.css.gz").write_bytes(b"packed")
    (static / "loom.bin").write_bytes(content_of(1, SIZE))
    (folder / "loom.bin").write_bytes(content_of(0, SIZE))
    settings.STATIC_ROOT = str(static)
    settings.SHOP_FILE = str(folder / "loom.bin")
    return folder


@pytest.fixture
def shop(project: Path) -> Iterator[Any]:
    """Give the project's app, whose log is empty."""
    LOG.clear()
    yield get_wsgi_application()
    connections.close_all()
