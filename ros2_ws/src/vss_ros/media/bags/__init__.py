"""Recordings: rosbag2 (mcap, sqlite3) read and written, ROS 1 read, all without ROS."""

from vss_ros.media.bags.folder import find_bags, is_bag
from vss_ros.media.bags.messages import CAMERA_INFO, COMPRESSED, IMAGE, PACKET, typestore
from vss_ros.media.bags.reader import BagReader
from vss_ros.media.bags.writer import BagWriter

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED",
    "IMAGE",
    "PACKET",
    "BagReader",
    "BagWriter",
    "find_bags",
    "is_bag",
    "typestore",
]
