"""The heartbeat by which Nav2's lifecycle manager sees that an active node lives."""

from __future__ import annotations

import importlib.util
from typing import Any

from rclpy.node import Node

TOPIC = "bond"


def bond(node: Node) -> Any:
    """A started bond named after the node, as nav2_util's nodes make theirs; None without bondpy."""
    if importlib.util.find_spec("bondpy") is None:
        node.get_logger().info(
            "bondpy is not installed: under Nav2's lifecycle manager set its bond_timeout to 0.0", once=True
        )
        return None
    from bondpy import bondpy

    made = bondpy.Bond(node, TOPIC, node.get_name())
    made.start()
    return made
