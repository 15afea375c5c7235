"""An observer that keeps what it is told."""

from __future__ import annotations

from treadle.events import Observer, TaskEvent


class Notes(Observer):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, TaskEvent]] = []

    def submitted(self, event: TaskEvent) -> None:
        self.events.append(("submitted", event))

    def started(self, event: TaskEvent) -> None:
        self.events.append(("started", event))

    def finished(self, event: TaskEvent) -> None:
        self.events.append(("finished", event))

    def cancelled(self, event: TaskEvent) -> None:
        self.events.append(("cancelled", event))

    def rejected(self, event: TaskEvent) -> None:
        self.events.append(("rejected", event))

    def shed(self, event: TaskEvent) -> None:
        self.events.append(("shed", event))

    def of(self, name: str) -> set[str]:
        return {what for what, event in self.events if event.name == name}
