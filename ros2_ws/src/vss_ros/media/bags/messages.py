"""The message types that recordings are read and written with."""

from __future__ import annotations

import functools
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
SERIALIZATIONS = ("cdr", "ros1", "")
"""How messages are stored that are read; rosbag2 leaves it empty at times."""
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"

_FURTHER = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
    PACKET: (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n"
    ),
}


@functools.cache
def typestore() -> Any:
    """The types of ROS 2 Humble, the same on the wire up to Kilted, with LabelInfo and FFMPEGPacket."""
    return _with_further(Stores.ROS2_HUMBLE)


@functools.cache
def _ros1() -> Any:
    return _with_further(Stores.ROS1_NOETIC)


def _with_further(base: Stores) -> Any:
    store = get_typestore(base)
    for name, definition in _FURTHER.items():
        store.register(get_types_from_msg(definition, name))
    return store


def deserialize(data: Any, msgtype: str, serialization: str) -> Any:
    """A message as `rosbags` object. serialization: "cdr" or "ros1". A damaged one raises any exception."""
    if serialization == "ros1":
        return _ros1().deserialize_ros1(data, msgtype)
    return typestore().deserialize_cdr(data, msgtype)


def ros2_name(msgtype: str) -> str:
    """sensor_msgs/Image, as ROS 1 and some converters write it, with the /msg/ of ROS 2."""
    package, _, name = msgtype.partition("/")
    return msgtype if "/" in name or not name else f"{package}/msg/{name}"
