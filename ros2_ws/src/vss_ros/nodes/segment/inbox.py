"""The hand-over from a callback to a worker that may be slower."""

from __future__ import annotations

import threading
from typing import Any


class Newest:
    """One slot between the callback and the worker: a new message replaces one that waits."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.message: Any = None
        self.closed = False

    def put(self, message: Any) -> bool:
        """Whether a message that waited was dropped."""
        with self.changed:
            dropped, self.message = self.message is not None, message
            self.changed.notify()
            return dropped

    def take(self) -> Any:
        """Wait for a message; None once closed."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.message is not None)
            message, self.message = self.message, None
            return None if self.closed else message

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
