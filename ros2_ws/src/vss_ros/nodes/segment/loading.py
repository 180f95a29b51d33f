"""A network is loaded in a thread of its own, before the transition that needs it begins: services, parameters and
diagnostics answer meanwhile, whatever a runtime does, and a load that hangs can be given up."""

from __future__ import annotations

import threading
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future

from vss_ros.config import VssError

LATE = 60.0
"""Seconds of loading from which on it is an error; exporting a large network for the first time may take as long."""
NAMES = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
}


class Load:
    """One load. config: what it is for; open(): gives a `network.Start`; wake: called from the thread at its end."""

    def __init__(self, config: Any, open: Any, wake: Any) -> None:
        self.config, self.since = config, time.monotonic()
        self.future: Any = Future()
        """Whether it is through; False: given up."""
        self.found: Any = None
        self.error: BaseException | None = None
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.work, args=(open, wake), name="load", daemon=True)
        self.thread.start()

    def work(self, open: Any, wake: Any) -> None:
        try:
            self.found = open()
        except BaseException as error:  # it belongs to the transition, which fails by it
            self.error = error
        with self.lock:
            wanted = not self.future.done()
            if wanted:
                self.future.set_result(True)
        if not wanted:
            self.discard()
        wake()

    def give_up(self) -> None:
        """What it may still find is closed."""
        with self.lock:
            if not self.future.done():
                self.future.set_result(False)

    def discard(self) -> None:
        for stream in self.found.streams if self.found else ():
            stream.close()
        if self.found:
            self.found.close()

    def take(self) -> Any:
        """What was found. Raises what the load raised."""
        if isinstance(self.error, Exception):
            raise self.error
        if self.error is not None:
            raise VssError(f"loading ended by {type(self.error).__name__}: {self.error}") from self.error
        return self.found


class Loader:
    """The loads of a lifecycle node, one at a time; its `change_state` takes the place of rclpy's."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.current: Load | None = None
        self.ready: Load | None = None
        self.wake = node.create_guard_condition(lambda: None)
        # a callback that waits must not keep the node's others waiting
        self.group = ReentrantCallbackGroup()
        service = node._service_change_state
        self.transition, service.callback = service.callback, self.change_state
        service.callback_group = self.group
        self.group.add_entity(service)

    async def change_state(self, request: Any, response: Any) -> Any:
        wanted = request.transition.label or NAMES.get(request.transition.id, "shutdown")
        response.success = False
        if self.current and (wanted in ("cleanup", "shutdown") or self.seconds > LATE):
            self.give_up()
            if wanted == "cleanup" and self.node.state() == "unconfigured":  # all that there was to clean up
                response.success = True
                return response
        elif self.current:
            self.node.get_logger().error(f"{wanted}: {self.says}")
            return response
        if await self.before(wanted):
            try:
                return self.transition(request, response)
            except (
                RuntimeError
            ):  # RCLError, which on Humble and Jazzy would leave the caller without an answer
                response.success = False
        return response

    async def before(self, wanted: str) -> bool:
        """Load what a transition needs, for the options as they are at its end; False if it was given up."""
        while self.node.needs_load(wanted):
            load = self.current = Load(self.node.config, self.node.open, self.wake.trigger)
            through = await load.future
            if not through:
                return False
            self.current = None
            if load.config == self.node.config:
                self.ready = load
                return True
            load.discard()
        return True

    def take(self) -> Any:
        """What was loaded for this transition, or is loaded now."""
        ready, self.ready = self.ready, None
        return ready.take() if ready else self.node.open()

    def forget(self) -> None:
        """Close what was loaded for a transition that did not begin."""
        ready, self.ready = self.ready, None
        if ready:
            ready.discard()

    def give_up(self) -> bool:
        """Give up what is being loaded; whether its thread has ended."""
        load, self.current = self.current, None
        if load is None:
            return True
        load.give_up()
        self.node.get_logger().error(f"given up: loading {load.config.model} after {self.age(load):.0f} s")
        return not load.thread.is_alive()

    @staticmethod
    def age(load: Load) -> float:
        return time.monotonic() - load.since

    @property
    def seconds(self) -> float:
        return self.age(self.current) if self.current else 0.0

    @property
    def says(self) -> str:
        """What is being loaded, and what to do if that takes too long."""
        if self.current is None:
            return ""
        doing = f"loading {self.current.config.model} for {self.seconds:.0f} s"
        return (
            doing
            if self.seconds < LATE
            else f"{doing}: shut the node down, or configure again, to give it up"
        )
