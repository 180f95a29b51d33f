"""The package as a Python user meets it: types, errors that name the fix, results as pictures and files."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import typing

import cv2
import numpy as np
import pytest
import torch
import vss_ros
from fixtures.paths import ROOT
from vss_ros.config import RuntimeConfig, StreamConfig, VssError
from vss_ros.node_config import CountConfig, NodeConfig
from vss_ros.stream.count import CountOptions
from vss_ros.stream.load import StreamOptions

SNIPPET = """
import vss_ros
from vss_ros.stream.count import load_counter

stream = vss_ros.load_stream("street", backend="auto", keyframe_interval=5)
for rgb, result in vss_ros.predict("drive.mp4", model="street", policy="fixed"):
    reveal_type(result.overlay(rgb))
reveal_type(stream)
vss_ros.load_stream("street", backned="auto")
vss_ros.load_stream("street", interval="five")
load_counter("card.yaml", patches="two")
"""


OF_STREAM = {"keyframe_interval", "both_sides", "measure_drift"}
OF_NODES = {item.name for item in dataclasses.fields(NodeConfig)} - {
    i.name for i in dataclasses.fields(RuntimeConfig)
}


@pytest.mark.parametrize(
    ("options", "config", "own"),
    [(StreamOptions, StreamConfig, OF_STREAM), (CountOptions, CountConfig, set())],
)
def test_editors_and_type_checkers_know_every_option(options, config, own):
    kinds = typing.get_type_hints(options)
    fields = {item.name: item for item in dataclasses.fields(config)}
    fields = {
        n: item for n, item in fields.items() if n not in OF_NODES and not n.startswith("disagreement_")
    }
    assert kinds.keys() == fields.keys() - {"model"} | own
    for name, kind in kinds.items():
        if name in own:
            continue
        words = tuple(fields[name].metadata["choices"])
        assert typing.get_args(kind) == words and (words or kind is type(fields[name].default))


def test_a_users_lines_are_typed(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SNIPPET)
    words = ["--strict", "--follow-imports=silent", "--cache-dir", str(ROOT / ".mypy_cache" / "user")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, str(file)], cwd=ROOT, capture_output=True, text=True
    )
    said = done.stdout
    assert 'Revealed type is "numpy.ndarray' in said and "stream.Stream" in said, said + done.stderr
    assert 'Unexpected keyword argument "backned"' in said and 'did you mean "backend"' in said
    assert 'Argument "interval" to "load_stream" has incompatible type "str"' in said
    assert 'Argument "patches" to "load_counter" has incompatible type "str"' in said
    assert "Found 3 errors in 1 file" in said
    assert (ROOT / "ros2_ws" / "src" / "vss_ros" / "py.typed").exists()


RGB = np.zeros((24, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("rgb", "stamp", "said"),
    [
        (RGB / 255.0, 6.0, "dtype float64; of values in 0…1"),
        (np.full((24, 32, 3), np.nan, np.float32), 6.0, "expected an .H, W, 3. uint8 RGB array"),
        (RGB[..., 0], 6.0, "shape .24, 32."),
        (RGB.transpose(2, 0, 1), 6.0, "shape .3, 24, 32."),
        (RGB[:0], 6.0, "shape .0, 32, 3."),
        (torch.zeros(24, 32, 3, dtype=torch.uint8), 6.0, "got Tensor of shape"),
        (None, 6.0, "got NoneType"),
        (RGB, float("nan"), "stamp: expected seconds as a finite number, got nan"),
        (RGB, float("inf"), "stamp: expected seconds"),
        (RGB.astype(np.uint16), 6.0, "dtype uint16; of 16 bits it is .rgb >> 8..astype"),
        (RGB, 1_700_000_000_000_000_000, "of nanoseconds they are"),
        (RGB, None, "stamp: expected seconds"),
        (RGB, 4.0, "stamp: expected at least 5.0 s, that of the frame before, got 4.0; call reset"),
    ],
)
def test_what_is_no_frame_or_no_time_is_refused(tiny_card, rgb, stamp, said):
    with vss_ros.load_stream(tiny_card, backend="torch") as stream:
        stream(RGB, np.float32(5.0))
        with pytest.raises(VssError, match=said):
            stream(rgb, stamp)
        assert stream(RGB, 5).index == 1, "a refused frame leaves the stream as it was"
        stream.reset()
        assert stream(RGB, 4.0).reset == "first frame"


def test_what_is_no_source_or_clip_is_refused(tiny_card):
    for source in (0, RGB):
        with pytest.raises(
            VssError, match=r"expected a path, or a text such as 'camera:0', got (int|ndarray)"
        ):
            vss_ros.predict(source, tiny_card)
    with vss_ros.load_stream(tiny_card, backend="torch") as stream:
        with pytest.raises(VssError, match=r"expected a pair \(rgb, stamp\) for each frame, got ndarray"):
            list(stream.run([RGB, RGB]))
        result = stream(RGB)
    for rgb, alpha in ((RGB / 255, 0.5), (RGB, 7), (RGB[..., :1], 0.5)):
        with pytest.raises(VssError, match=r"overlay: expected .* alpha in 0–1, got"):
            result.overlay(rgb, alpha)


def test_results_go_to_other_processes(tiny_card, rng):
    rgb = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    with vss_ros.load_stream(tiny_card, backend="torch") as stream:
        result = stream(rgb)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):  # noqa: S301
        assert (other.labels == result.labels).all() and (other.confidence() == result.confidence()).all()


def test_views_of_other_arrays_are_frames(tiny_card, rng):
    bgr = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    with vss_ros.load_stream(tiny_card, backend="torch") as stream:
        expected = stream(np.ascontiguousarray(bgr[::-1, :, ::-1])).labels
        stream.reset()
        assert (stream(bgr[::-1, :, ::-1]).labels == expected).all()


def test_results_as_pictures_and_files(tiny_card, tmp_path, rng):
    rgb = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    with vss_ros.load_stream(tiny_card, backend="torch") as stream:
        palette, result = np.array(stream.card.palette), stream(rgb)
    mixed = result.overlay(rgb, alpha=1.0)
    assert (mixed == palette[result.labels]).all() and (result.overlay(rgb, alpha=0.0) == rgb).all()
    ids = cv2.imread(str(result.save(tmp_path / "new" / "a.png")), cv2.IMREAD_UNCHANGED)
    assert ids.dtype == np.uint8 and (ids == result.labels).all()
    assert (cv2.imread(str(result.save(str(tmp_path / "c.png"), "color")))[:, :, ::-1] == mixed).all()
    with pytest.raises(VssError, match="a name that ends in"):
        result.save(tmp_path / "a.jpg")
    with pytest.raises(VssError, match="expected labels of the image's size"):
        result.overlay(rgb[:8])
    with pytest.raises(VssError, match="cannot be written"):
        result.save(tmp_path / "c.png" / "a.png")


def test_one_spelling_of_an_option_at_a_time(tiny_card):
    with pytest.raises(VssError, match="interval, keyframe_interval: expected one of them"):
        vss_ros.load_stream(tiny_card, interval=5, keyframe_interval=5)
