"""What /diagnostics says of a camera, and why no image comes."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start
from fixtures.segment import constant, messages

pytestmark = pytest.mark.ros


def test_a_camera_that_stops_and_returns(start, client, messages):
    node = constant(start, image_timeout=1.0)
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert node.logged("no publisher on /image")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert node.logged("images arrive again")
    assert client.until(lambda: "stopped" in latest(diagnostics, "input").message)
    assert latest(diagnostics, "input").level == b"\x02"
    for _ in range(30):
        client.publish(image(np.zeros((8, 8, 3), np.uint8)))
        client.spin(0.1)
    assert client.until(lambda: latest(diagnostics, "input").level == b"\x00", 5.0)
    assert node.text().count("the camera on /image stopped") == 1


def test_the_cause_of_silence_is_named(start, client, messages):
    """Another type, another topic, another QoS, or nothing but large images."""
    client.publisher(messages.CompressedImage)
    client.publisher(messages.Image, "/front/image_raw")
    node = constant(start, image_timeout=0.5)
    assert node.logged("carries sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image")
    assert "transport:=compressed" in node.text()

    other = start(
        "segment", constant_network=True, autostart=True, image_timeout=0.5, remaps={"image": "/none"}
    )
    assert other.logged("no publisher on /none")
    assert "/front/image_raw" in other.text()

    strict = start(
        "segment",
        constant_network=True,
        autostart=True,
        image_timeout=0.5,
        remaps={"image": "/strict"},
        **{"qos_overrides./strict.subscription.reliability": "reliable"},
    )
    client.publisher(messages.Image, "/strict", best_effort=True)
    assert strict.logged("incompatible QoS on /strict")
    assert "qos_overrides./strict.subscription" in strict.text()

    quiet = start(
        "segment",
        constant_network=True,
        autostart=True,
        image_timeout=0.5,
        remaps={"image": "/front/image_raw"},
    )
    assert quiet.logged("FASTRTPS_DEFAULT_PROFILES_FILE")
    assert "config/fastdds.xml" in quiet.text()


def test_diagnostics_come_once_a_second_with_name_and_hardware(start, client, messages):
    start(
        "segment",
        constant_network=True,
        autostart=True,
        remaps={"image": "/camera/image_raw", "__ns": "/front"},
    )
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert client.until(lambda: len(diagnostics) >= 4)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in diagnostics]
    assert np.median(np.diff(stamps)) == pytest.approx(1.0, abs=0.2)
    names = {s.name for s in diagnostics[-1].status}
    assert names == {f"front/segment: {part}" for part in ("lifecycle", "input", "network", "consistency")}
    assert {s.hardware_id for s in diagnostics[-1].status} == {"/camera/image_raw"}
