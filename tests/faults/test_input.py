"""Whatever a camera sends, the node answers what can be answered and says the truth about the rest."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values
from fixtures.segment import constant, messages, unusable

pytestmark = [pytest.mark.ros, pytest.mark.slow]

WARN, ERROR = b"\x01", b"\x02"


@pytest.fixture
def camera(client, messages):
    """camera(message) publishes; camera.masks, camera.reports fill."""
    masks = client.collect(messages.Image, "/segment/mask")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")

    def send(message):
        client.publish(message)

    send.masks, send.reports = masks, reports
    return send


def said(reports, line, words):
    return [
        s.level for report in reports for s in report.status if s.name.endswith(line) and words in s.message
    ]


def test_sizes_and_encodings_change_with_every_image(start, client, camera, rng):
    """120 images, no two alike in size, some in encodings that nobody knows, each unknown one another."""
    node = constant(start)
    good = bad = 0
    for number in range(120):
        height, width = rng.integers(1, 40, 2) * 2
        kind = rng.choice(["rgb8", "mono8", "mono16", "bgra8", "yuv422", "nv12", "strange", "short"])
        shape, dtype = (height, width), np.uint8
        if kind in ("rgb8", "bgra8", "yuv422", "short"):
            shape += ({"bgra8": 4, "yuv422": 2}.get(kind, 3),)
        if kind == "mono16":
            dtype = np.uint16
        if kind == "nv12":
            shape = (height * 3 // 2, width)
        encoding = f"strange{number}" if kind == "strange" else "rgb8" if kind == "short" else kind
        message = image(rng.integers(0, 256, shape).astype(dtype), encoding, stamp=1 + number / 100)
        message.height = int(height)
        if kind == "short":
            message.data = message.data[: len(message.data) // 2]
        camera(message)
        if kind in ("strange", "short"):
            bad += 1
        else:
            good += 1
            assert client.until(lambda n=good: len(camera.masks) == n), (kind, height, width, node.text())
            assert (camera.masks[-1].height, camera.masks[-1].width) == (height, width)
        client.spin(0.01)
    assert client.until(lambda: unusable(camera.reports) == bad)
    assert node.text().count("image skipped") <= 10, "the log is no flood"
    assert node.text().count("starts anew") <= 10
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_a_camera_that_stalls_is_reported_within_seconds_and_goes_on(start, client, camera):
    node = constant(start, image_timeout=2.0)

    def run(first, count):
        for number in range(first, first + count):
            camera(image(np.zeros((8, 8, 3), np.uint8), stamp=10 + number / 20))
            client.spin(0.05)

    run(0, 60)
    camera.reports.clear()
    stopped = time.monotonic()
    assert client.until(lambda: said(camera.reports, "input", "no image for"))
    assert time.monotonic() - stopped < 4.0
    assert client.until(lambda: ERROR in said(camera.reports, "input", "stopped: its publisher is there"))
    run(200, 20)
    assert node.logged("images arrive again")
    answered = len(camera.masks)
    run(220, 5)
    assert client.until(lambda: len(camera.masks) > answered)


def test_clocks_that_jump(start, client, camera):
    """Back by an hour, an hour ahead of this machine, and zero."""
    node = constant(start)
    now = time.time()
    for number, stamp in enumerate([now, now + 0.1, now - 3600, now - 3599.9, now + 3600, now + 3600.1, 0.0]):
        camera(image(np.zeros((8, 8, 3), np.uint8), stamp=stamp))
        assert client.until(lambda n=number: len(camera.masks) == n + 1), node.text()
        client.spin(0.02)
    camera.reports.clear()
    for _ in range(60):
        camera(image(np.zeros((8, 8, 3), np.uint8), stamp=time.time() + 3600))
        client.spin(0.05)
    levels = said(camera.reports, "network", "ahead of this machine's clock: synchronise")
    assert levels and levels[-1] == ERROR
    for _ in range(60):
        camera(image(np.zeros((8, 8, 3), np.uint8), stamp=time.time() + 0.2))
        client.spin(0.05)
    assert said(camera.reports, "network", "ahead of this machine's clock")[-1] == WARN


def test_images_lost_before_the_node_are_counted(start, client, camera):
    """Two of three images of a camera of 30 Hz never come."""
    constant(start)
    rng = np.random.default_rng(0)
    sent = [number for number in range(600) if rng.random() < 0.34]
    for number in sent:
        camera(image(np.zeros((8, 8, 3), np.uint8), stamp=10 + number / 30 + rng.normal(0, 0.001)))
        client.spin(0.02)
    assert client.until(lambda: WARN in said(camera.reports, "input", "of the images lost before the node"))
    client.spin(1.5)  # the last images are in a report
    figures = values(latest(camera.reports, "input"))
    assert float(figures["rhythm_hz"]) == pytest.approx(30, rel=0.1)
    assert int(figures["lost"]) == pytest.approx(sent[-44] + 1 - len(sent[:-44]), rel=0.2)


def test_a_flood_of_300_images_a_second_delays_nothing(start, client, camera):
    node = constant(start)
    message = image(np.zeros((240, 320, 3), np.uint8))
    camera(message)
    publisher = client.publisher(type(message))
    end, sent = time.monotonic() + 5.0, 0
    while time.monotonic() < end:
        stamp = time.time()
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
        publisher.publish(message)
        sent += 1
        client.executor.spin_once(timeout_sec=0)
        time.sleep(max(0.0, end - 5.0 + sent / 300 - time.monotonic()))
    client.spin(1.0)
    last = camera.masks[-1].header.stamp
    assert (last.sec, last.nanosec) == (message.header.stamp.sec, message.header.stamp.nanosec), (
        "the newest wins"
    )
    levels = [s.level for r in camera.reports for s in r.status if s.name.endswith("network")]
    assert len(levels) >= 4, "diagnostics go on"
    assert float(values(latest(camera.reports, "network")).get("latency_ms", 0)) < 500
    assert client.state() == "active" and node.stop() == 0
