"""`watcher`: what the segment node publishes, on a web page; `vss watch` starts it.

ros2 run vss_ros watcher --ros-args -p port:=8088
"""

from __future__ import annotations

import math
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vss_ros.nodes.parameters import declare
from vss_ros.nodes.watch.board import Board
from vss_ros.nodes.watch.command import WatchConfig
from vss_ros.nodes.watch.feed import QUIET, Feed, places_of, publishers_of_labels
from vss_ros.nodes.watch.server import WatchServer
from vss_ros.nodes.watch.token import find_token, reveal

TICK, SEARCH = 0.25, 1.0
"""Seconds from one look at the page, and at the network, to the next."""
LEVELS = {
    DiagnosticStatus.OK: "OK",
    DiagnosticStatus.WARN: "WARN",
    DiagnosticStatus.ERROR: "ERROR",
    DiagnosticStatus.STALE: "STALE",
}


class Watcher(Node):
    """Callbacks put the newest on the board; the threads of the server read it there and never wait for ROS."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__("watcher")
        self.config: WatchConfig = declare(self, WatchConfig)
        self.path = f"{self.get_namespace()}/{self.config.node}".lstrip("/")
        self.board = Board()
        token = find_token(self.config.token_file)
        self.server = WatchServer(self.board, self.config.host, self.config.port, token)
        self.feeds: dict[str, Feed] = {}
        self.others: set[str] = set()
        self.reported = self.searched = -math.inf
        self.lines: dict[str, DiagnosticStatus] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 100)
        self.create_timer(TICK, self.on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(reveal(self.server.url, self.server.token, self.server.server_address[1]))

    def on_tick(self) -> None:
        """Find the cameras, have pictures sent only while somebody looks, and say what is wrong."""
        now, watched = time.monotonic(), self.board.watched()
        if now - self.searched > SEARCH:
            self.searched = now
            self.find_cameras()
        for name, feed in self.feeds.items():
            feed.look(name in watched)
        feeds = [self.feeds[name] for name in watched if name in self.feeds]
        quiet = any(feed.quiet(now) for feed in feeds) or (watched and not feeds)
        lines = [
            {"name": self.short(name), "level": LEVELS.get(line.level, "?"), "message": line.message}
            for name, line in self.lines.items()
        ]
        self.board.tell(node=f"/{self.path}", lines=lines, problem=self.problem(now) if quiet else "")

    def find_cameras(self) -> None:
        """A feed for each place below which the node answers, whatever its topics are remapped to."""
        places = places_of(self, f"/{self.path}")
        if not places and self.path == WatchConfig.node and self.reported < 0:
            self.adopt({name for _, name in publishers_of_labels(self)})
        if places and places != {name: feed.place for name, feed in self.feeds.items()}:
            for feed in self.feeds.values():
                feed.close()
            self.feeds = {name: Feed(self, name, place) for name, place in places.items()}
            self.board.cameras(list(places))

    def adopt(self, others: set[str]) -> None:
        """Who named no node means the only one that is there; two looks, since discovery may find a second one."""
        if len(others) == 1 and others == self.others:
            self.path = others.copy().pop().lstrip("/")
            self.get_logger().info(f"showing /{self.path}, the only segment node here")
        self.others = others

    def short(self, name: str) -> str:
        """A line of /diagnostics without the node's own name: "input", "front: input"."""
        return name.removeprefix(self.path).lstrip(":/ ")

    def problem(self, now: float) -> str:
        """Why no picture comes, and what to do."""
        if now - self.reported > QUIET + 1.0:
            if self.reported > 0:
                return f"/{self.path} has ended, or reports no more: see its log and start it again"
            return f"nothing is heard of the node /{self.path}: {self.elsewhere()}"
        if errors := self.messages(DiagnosticStatus.ERROR):
            return errors
        state = next(
            (line.message for name, line in self.lines.items() if name.endswith("lifecycle")), "active"
        )
        if state != "active":
            return f"the node is {state}: ros2 lifecycle set /{self.path} configure, then activate"
        if warnings := self.messages(DiagnosticStatus.WARN):
            return warnings
        places = ", ".join(feed.place for feed in self.feeds.values())
        return (
            f"/{self.path} runs, but nothing arrives on {places}/mask: its camera has paused, or Fast DDS loses large "
            "images; set FASTDDS_DEFAULT_PROFILES_FILE for the node as its launch file does"
        )

    def messages(self, level: bytes) -> str:
        """What the node reports on this level."""
        return "; ".join(line.message for line in self.lines.values() if line.level == level)

    def elsewhere(self) -> str:
        """What to do about a node that is not found."""
        others = sorted({name for _, name in publishers_of_labels(self)})
        if others:
            return f"there is {', '.join(others)}: --namespace, --node"
        return "start it (ros2 launch vss_ros segment.launch.py), with this machine's ROS_DOMAIN_ID"

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = {
            line.name: line
            for line in message.status
            if line.name.startswith((f"{self.path}: ", f"{self.path}/"))
        }
        if ours:
            self.lines, self.reported = ours, time.monotonic()

    def close(self, timeout: float) -> bool:
        """Before the process ends."""
        self.server.close()
        return True
