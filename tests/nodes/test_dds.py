"""Large best-effort images between two processes: the profile lets them through."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fixtures.ros import ROOT, profile_variable

pytestmark = pytest.mark.ros

COMMON = """
import array, sys, time, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node(sys.argv[1])
qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""
CAMERA = (
    COMMON
    + """
publisher = node.create_publisher(Image, "large", qos)
end = time.monotonic() + 30
while not publisher.get_subscription_count() and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.05)
time.sleep(0.5)
message = Image(height=1024, width=2048, encoding="rgb8", step=6144)
message.data = array.array("B", bytes(6144 * 1024))
for number in range(30):
    message.header.frame_id = str(number)
    publisher.publish(message)
    time.sleep(0.1)
time.sleep(1)
"""
)
VIEWER = (
    COMMON
    + """
seen = []
node.create_subscription(Image, "large", lambda message: seen.append(int(message.header.frame_id)), qos)
end = time.monotonic() + 40
while len(seen) < 30 and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
print(*seen)
"""
)


def test_thirty_of_thirty_large_images_arrive():
    pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")
    assert os.environ[profile_variable()] == str(ROOT / "config" / "fastdds.xml")
    viewer = subprocess.Popen([sys.executable, "-c", VIEWER, "viewer"], stdout=subprocess.PIPE, text=True)
    camera = subprocess.Popen([sys.executable, "-c", CAMERA, "camera"])
    try:
        seen, _ = viewer.communicate(timeout=60)
        assert camera.wait(30) == 0
    finally:
        viewer.kill()
        camera.kill()
    assert [int(number) for number in seen.split()] == list(range(30))


def test_profile_fits_into_the_shared_memory_of_a_container():
    """Docker gives 64 MB to /dev/shm, and a camera and three readers each take one segment."""
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.parse(ROOT / "config" / "fastdds.xml").getroot()
    space = {"f": root.tag.partition("}")[0].strip("{")}
    size = int(root.find(".//f:segment_size", space).text)
    assert size >= 2 * (2048 * 1024 * 3) and 4 * size <= 2**26
    kinds = [element.text for element in root.findall(".//f:type", space)]
    assert kinds == ["SHM", "UDPv4"], "other hosts must still be reached"
