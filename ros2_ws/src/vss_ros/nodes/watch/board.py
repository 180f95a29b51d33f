"""What the page of `vss watch` shows: the ROS node writes it here, the server's threads read it and wait here."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

SAMPLES = 600
"""Frames whose figures are kept; a page that opens late begins with them."""
PATIENCE = 5.0
"""Seconds that a request waits for something new before it is answered without."""


@dataclass
class View:
    """One camera. picture: the newest image as JPEG and its mask as PNG, numbered; asked: when a browser wanted it."""

    picture: tuple[bytes, bytes] = (b"", b"")
    pictures: int = 0
    samples: deque[tuple[int, float, dict[str, float]]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    asked: float = -float("inf")


class Board:
    """The newest of everything that a page shows; any thread may write and read.

    Cameras are named as their node names them, "" if it has one; a name that is not known stands for the first.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.changed = threading.Condition()
        self.views: dict[str, View] = {"": View()}
        self.facts: dict[str, Any] = {}
        self.number = 0
        self.epoch = time.time() - time.monotonic()

    def cameras(self, names: list[str]) -> None:
        """The cameras that there are now; those that stay keep what they have."""
        with self.changed:
            if names and list(self.views) != names:
                self.views = {name: self.views.get(name, View()) for name in names}
                self.number += 1
                self.changed.notify_all()

    def view(self, camera: str) -> View:
        return self.views.get(camera) or next(iter(self.views.values()))

    def show(self, camera: str, jpeg: bytes, png: bytes) -> None:
        """A new image and its mask."""
        with self.changed:
            view = self.view(camera)
            view.picture, view.pictures = (jpeg, png), view.pictures + 1
            self.changed.notify_all()

    def add(self, camera: str, figures: dict[str, float]) -> None:
        """The figures of one frame."""
        with self.changed:
            self.number += 1
            self.view(camera).samples.append((self.number, self.epoch + time.monotonic(), figures))
            self.changed.notify_all()

    def tell(self, **facts: Any) -> None:
        """What holds until it is told anew."""
        with self.changed:
            if any(self.facts.get(name) != value for name, value in facts.items()):
                self.facts.update(facts)
                self.number += 1
                self.changed.notify_all()

    def watched(self) -> list[str]:
        """Cameras of which a browser wants pictures."""
        since = time.monotonic() - self.patience - 2.0
        with self.changed:
            return [name for name, view in self.views.items() if view.asked > since]

    def picture(self, camera: str, after: int) -> tuple[int, bytes, bytes] | None:
        """Number, JPEG and PNG of the newest picture; None if it is still number `after` when patience ends."""
        with self.changed:
            view = self.view(camera)
            view.asked = time.monotonic()
            # Unequal, not above: the browser's number may be that of an earlier server.
            new = self.changed.wait_for(lambda: view.pictures not in (0, after), self.patience)
            return (view.pictures, *view.picture) if new else None

    def state(self, camera: str, after: int) -> dict[str, Any]:
        """All facts, and the figures of a camera's frames since state `after`."""
        with self.changed:
            self.changed.wait_for(lambda: self.number != after, self.patience)
            known = after if after <= self.number else 0
            samples = [
                [seconds, figures] for number, seconds, figures in self.view(camera).samples if number > known
            ]
            return {"number": self.number, **self.facts, "cameras": list(self.views), "samples": samples}
