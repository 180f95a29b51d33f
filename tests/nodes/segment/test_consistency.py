"""What the segment node says about consistency, as its readers meet it: topics, diagnostics, compressed masks."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values
from vss_ros.data.figures import FRAME

pytestmark = pytest.mark.ros

WARN, ERROR = b"\x01", b"\x02"

# The network is replaced by one whose labels are the image's first channel.
MIRROR = """
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.feed
def mirror(stream, rgb, *others):
    results = answer(stream, rgb, *others)
    for result in results:
        result.labels = rgb[..., 0].copy()
    return results
constant.ConstantStream.feed = mirror
"""


def mirror(start, **parameters):
    return start("segment", patch=MIRROR, constant_network=True, autostart=True, **parameters)


def picture(labels):
    return np.repeat(labels[..., None], 3, axis=2)


def feed(client, maps, topic):
    """Publish one image a map at 10 Hz by its stamps, each once the one before is answered."""
    start_stamp = time.time()
    for number, labels in enumerate(maps):
        message = image(picture(labels), stamp=start_stamp + number / 10)
        client.publish(message)
        if not client.until(lambda n=number: len(topic) > n, 5):
            client.publish(message)  # the node's subscription is best effort: an image may be lost
            assert client.until(lambda n=number: len(topic) > n), f"no answer to image {number}"


def test_each_frame_has_figures_that_plotting_tools_read(start, client, tiny_card, rng):
    from diagnostic_msgs.msg import DiagnosticArray

    start("segment", model=str(tiny_card), backend="torch", autostart=True, interval=4, schedule="at_once")
    topic = client.collect(DiagnosticArray, "/segment/consistency")
    assert client.active()
    base = rng.integers(0, 200, (64, 96), dtype=np.uint8)
    feed(client, [base + 2 * t for t in range(18)], topic)
    seen = [values(message.status[0]) for message in topic]
    expected = {name for name in FRAME if "<" not in name} | {
        "area/road",
        "area/car",
        "area/sky",
        "total_ms",
    }
    assert expected | {"latency_ms", "staleness_ms", "dropped"} <= set().union(*seen)
    for figures in seen:
        for name in figures.keys() - {"area_jump_class", "reset", "schedule"}:
            assert np.isfinite(float(figures[name])), f"{name}: {figures[name]}"
    # The drift is measured from the moment that the node knows its reader.
    assert [float(f["feature_drift"]) == 0 for f in seen[9:]] == [f["keyframe"] == "1" for f in seen[9:]]
    assert [int(f["keyframe_age"]) for f in seen] == [t % 4 for t in range(18)]
    assert float(seen[3]["keyframe_age_ms"]) == pytest.approx(300, abs=1)
    age, before = float(seen[5]["staleness_ms"]), float(seen[5]["latency_ms"])
    assert age == pytest.approx(before + 100, abs=1)
    assert sum(float(seen[17][f"area/{name}"]) for name in ("road", "car", "sky")) == pytest.approx(
        1, abs=1e-4
    )


def test_a_compressed_mask_is_the_mask_to_the_last_label(start, client, rng):
    from sensor_msgs.msg import CompressedImage, Image

    mirror(start)
    masks = client.collect(Image, "/segment/mask")
    compressed = client.collect(CompressedImage, "/segment/mask/compressed")
    noise = rng.integers(0, 256, (48, 64), dtype=np.uint8)  # every id, 255 among them
    feed(client, [noise + t for t in range(5)] + [np.zeros((48, 64), np.uint8)], masks)
    assert client.until(lambda: compressed and compressed[-1].header == masks[-1].header)
    by_stamp = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in masks}
    assert len(compressed) >= 4, "all but those before the node knew of its reader"
    for message in compressed:
        mask = by_stamp[message.header.stamp.sec, message.header.stamp.nanosec]
        assert message.header == mask.header and message.format.startswith("mono8; png")
        labels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and labels.tobytes() == bytes(mask.data)


def test_the_heat_map_shows_where_labels_flicker(start, client):
    from sensor_msgs.msg import Image

    mirror(start)
    masks = client.collect(Image, "/segment/mask")
    heat = client.collect(Image, "/segment/flicker")
    still, other = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
    other[:10, :10] = 3
    feed(client, [still, other] * 8, masks)
    assert client.until(lambda: heat and heat[-1].header == masks[-1].header)
    assert heat[-1].encoding == "rgb8"
    colours = np.frombuffer(heat[-1].data, np.uint8).reshape(48, 64, 3)
    assert not colours[20:].any() and not colours[:, 20:].any(), "black where nothing changes"
    assert colours[:10, :10].min() > 0 and colours[5, 5, 0] == 255, "nearly white where every frame changes"


@pytest.mark.slow
def test_diagnostics_rise_with_the_thresholds_and_say_what_to_do(start, client):
    from diagnostic_msgs.msg import DiagnosticArray

    mirror(start)
    topic = client.collect(DiagnosticArray, "/segment/consistency")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    still, other = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    other[:20] = 1  # half of the labels change with every frame

    def level(maps):
        """The highest level and its message in the reports while the maps are sent."""
        diagnostics.clear()
        topic.clear()
        feed(client, maps, topic)
        end = time.time()
        assert client.until(lambda: diagnostics and diagnostics[-1].header.stamp.sec > end)
        said = [s for d in diagnostics for s in d.status if s.name.endswith("consistency") and s.values]
        return max(((s.level, s.message) for s in said), key=lambda pair: pair[0])

    assert level([still] * 12)[0] == b"\x00"
    grade, message = level([still, other] * 8)
    assert (
        grade == ERROR
        and "flicker" in message
        and "~/flicker" in message
        and "flicker_error is 0.2" in message
    )
    assert client.set(flicker_warn=1.0, flicker_error=1.0) == ""
    grade, message = level([still, other] * 8)
    assert grade == WARN and "label_change_warn is 0.2" in message and "lower interval" in message
    assert client.set(label_change_warn=1.0, label_change_error=1.0) == ""
    assert level([still, other] * 8)[0] == b"\x00"
    assert "flicker_warn: expected at most flicker_error" in client.set(flicker_warn=0.5, flicker_error=0.1)


SLOW = """
import time
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.feed
def slow(stream, *arguments):
    time.sleep(0.4 if stream.index < 4 else 3.0)
    return answer(stream, *arguments)
constant.ConstantStream.feed = slow
"""


@pytest.mark.slow
def test_diagnostics_report_drops_and_a_network_that_hangs(start, client):
    from diagnostic_msgs.msg import DiagnosticArray

    quiet = {"latency_warn": 60.0, "latency_error": 60.0}
    start("segment", patch=SLOW, constant_network=True, autostart=True, mask_age_warn=0.5, **quiet)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    publisher = client.publisher(type(image(np.zeros((8, 8, 3), np.uint8))))
    client.settle(publisher)

    def said(words):
        publisher.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=time.time()))
        client.spin(0.03)
        return [s for d in diagnostics for s in d.status if words in s.message]

    assert client.until(lambda: said("of the images dropped: raise interval"))
    assert said("of the images dropped")[0].level in (WARN, ERROR)
    assert client.until(lambda: said("while images arrive"))
    assert float(values(latest(diagnostics, "network"))["drop_share"]) > 0.5
