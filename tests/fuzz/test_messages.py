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
