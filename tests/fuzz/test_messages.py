"""Mutated messages of other nodes: calibrations of cameras, classes and figures, as anybody may publish them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from fixtures.fuzz import COUNT, EXTREMES, mutate_bytes, mutate_values, survives
from vss_ros.config import share_dir
from vss_ros.media.camera_info import Rectifier, check_camera_info, read_camera_info

pytestmark = pytest.mark.slow


def test_camera_info():
    sound = read_camera_info(share_dir() / "calibration" / "street.yaml")
    numbers = [float("nan"), float("inf"), -1.0, 0.0, 1e308, 1e-308]

    def take(rng):
        info = {**sound, "width": 64, "height": 48}
        for _ in range(int(rng.integers(1, 4))):
            name = ("d", "k", "r", "p")[int(rng.integers(4))]
            values = list(info[name])  # K, R and P have a fixed length in the message, D any
            if name == "d" and rng.random() < 0.3:
                values = values[: int(rng.integers(6))] * int(rng.integers(1, 4))
            if values:
                values[int(rng.integers(len(values)))] = numbers[int(rng.integers(len(numbers)))]
            info[name] = values
        if rng.random() < 0.2:
            info["distortion_model"] = ("", "equidistant", "rational_polynomial", "x" * 300)[
                int(rng.integers(4))
            ]
        check_camera_info(info)
        Rectifier(info)

    assert survives("CameraInfo", take) < COUNT


def test_classes_and_figures_on_the_page():
    pytest.importorskip("rclpy")
    from vss_ros.nodes.watch.board import Board
    from vss_ros.nodes.watch.feed import Feed, stamp_of

    node = SimpleNamespace(board=Board(patience=0.0), config=None, create_subscription=lambda *_, **__: None)
    node.get_logger = lambda: SimpleNamespace(warning=lambda *_, **__: None)
    feed = Feed(node, "", "/segmentation")
    labels = {
        "model": "street",
        "classes": [{"id": 0, "name": "road", "color": [1, 2, 3]}],
        "unlabelled": 255,
    }

    def take(rng):
        text = json.dumps(mutate_values(rng, labels), default=str)
        if rng.random() < 0.3:
            text = mutate_bytes(rng, text.encode()).decode(errors="replace")
        feed.on_labels(SimpleNamespace(data=text))
        values = [str(EXTREMES[int(i)]) for i in rng.integers(0, len(EXTREMES), 5)]
        pairs = [SimpleNamespace(key=f"k{i}", value=value) for i, value in enumerate(values)]
        feed.on_consistency(SimpleNamespace(status=[SimpleNamespace(values=pairs)]))
        stamp_of(rng.bytes(16))
        json.dumps(node.board.state("", 0), allow_nan=False)

    assert survives("labels", take) == COUNT


def test_pictures_on_the_page(monkeypatch):
    """Any bytes as an image and its mask: shown, left out or logged."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image
    from vss_ros.nodes.watch.board import Board
    from vss_ros.nodes.watch.feed import Feed

    said = []
    logger = SimpleNamespace(warning=lambda text, **_: said.append(text))
    config = SimpleNamespace(fps=1e9, width=32, quality=80)
    node = SimpleNamespace(board=Board(patience=0.0), config=config, get_logger=lambda: logger)
    node.create_subscription = lambda *_, **__: None
    shown = []
    monkeypatch.setattr(node.board, "show", lambda *picture: shown.append(picture))
    feed = Feed(node, "", "/segmentation")
    image = Image(height=24, width=48, step=144, encoding="rgb8", data=bytes(24 * 144))
    mask = Image(height=24, width=48, step=48, encoding="mono8", data=bytes(24 * 48))

    def take(rng):
        for part, message in (("image", image), ("mask", mask)):
            raw = serialize_message(message)
            head = int(rng.integers(12, 60))
            changed = (
                mutate_bytes(rng, raw[:head]) + raw[head:] if rng.random() < 0.8 else mutate_bytes(rng, raw)
            )
            feed.on_picture(part, changed if rng.random() < 0.6 else raw)

    assert survives("pictures", take) == COUNT
    assert len(shown) > COUNT / 20 and len(said) > COUNT / 20 and max(map(len, said)) < 400
