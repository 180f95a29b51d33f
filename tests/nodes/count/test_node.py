"""The count node as a user meets it."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.counting import counting_card
from fixtures.ros import client, image, start, values, wait
from fixtures.segment import messages

pytestmark = pytest.mark.ros


def test_points_counts_density_and_overlay_of_a_frame(start, client, messages, tmp_path, rng):
    from geometry_msgs.msg import PoseArray
    from std_msgs.msg import UInt32
    from vss_ros.nodes.count.publish import detections_type

    card = counting_card(tmp_path)
    node = start("count", model=str(card), backend="torch", patches=1, autostart=True)
    points = client.collect(detections_type() or PoseArray, "/count/points")
    counts = client.collect(UInt32, "/count/count")
    stamped = client.collect(messages.DiagnosticArray, "/count/counts")
    density = client.collect(messages.Image, "/count/density")
    overlay = client.collect(messages.Image, "/count/overlay")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert client.until(lambda: client.state("/count") == "active"), node.text()
    rgb = rng.integers(0, 256, (60, 100, 3), np.uint8)
    done = (points, counts, stamped, density, overlay)
    for number in range(3):
        client.publish(image(rgb, stamp=10 + number * 0.1), topic="/image")
        assert client.until(lambda n=number: all(len(m) > n for m in done)), node.text()
    assert points[-1].header.stamp.sec == 10 and points[-1].header == stamped[-1].header
    found = points[-1].poses if detections_type() is None else points[-1].detections
    figures = values(stamped[-1].status[0])
    assert len(found) == counts[-1].data == int(figures["count"]) > 0
    assert figures["patches"] == "1" and float(figures["coverage"]) == 1
    assert density[-1].encoding == "32FC1" and density[-1].step == 4 * density[-1].width
    assert (density[-1].height, density[-1].width) == (8, 13)
    objects = float(np.frombuffer(density[-1].data, np.float32).sum())
    assert objects == pytest.approx(float(figures["count_density"]), rel=1e-4)
    assert overlay[-1].encoding == "rgb8" and overlay[-1].width == 100
    seen = lambda: [s for m in diagnostics for s in m.status if s.name == "count: count"]  # noqa: E731
    assert client.until(lambda: any("objects" in s.message or "disagree" in s.message for s in seen()))
    assert node.stop() == 0
    assert "Traceback" not in node.text()


def test_it_starts_with_the_model_that_is_installed(start, client, messages):
    node = start("count", backend="torch", autostart=True)
    assert client.until(lambda: client.state("/count") == "active"), node.text()
    assert node.stop() == 0


def test_a_model_that_does_not_count_is_refused(start, client, messages, tiny_card):
    node = start("count", model=str(tiny_card), backend="torch")
    assert not client.change("configure", node="/count")
    assert node.logged("expected one that counts")


def test_runtime_parameters(start, client, messages, tmp_path):
    node = start("count", model=str(counting_card(tmp_path)), backend="torch", autostart=True)
    assert client.until(lambda: client.state("/count") == "active"), node.text()
    assert client.set(node="/count", patches=2, score=0.5, smooth=3) == ""
    assert "clean up first" in client.set(node="/count", overlap=64)
    assert client.set(node="/count", score=1.5) != ""
