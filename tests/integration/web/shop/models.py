"""What the shop keeps."""

from __future__ import annotations

from django.db import models


class Thing(models.Model):  # type: ignore[misc]  # Django comes without types
    """A thing that a client has put there."""

    owner = models.CharField(max_length=50, db_index=True)
    number = models.IntegerField()

    class Meta:
        app_label = "shop"
