"""Training and validation move what is remembered along the optical flow, as a stream does."""

import cv2
import numpy as np
import pytest
import torch
from vss_ros.data.clips import Clip
from vss_ros.networks import build
from vss_ros.networks.dcfm import moved
from vss_ros.train.samples import flow_over
from vss_ros.train.validate import segment


def textured(rng, height=96, width=128) -> np.ndarray:
    grey = cv2.GaussianBlur(rng.random((height + 40, width + 40), dtype=np.float32), (0, 0), 2.5)
    return np.repeat(cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)[..., None], 3, -1)


def test_a_flow_of_whole_cells_shifts_the_map():
    x = torch.randn(2, 5, 8, 12)
    flow = torch.zeros(2, 8, 12, 2)
    flow[..., 0], flow[..., 1] = 2, -1  # to the right and up
    assert torch.allclose(moved(x, flow)[:, :, 1:, :-2], x[:, :, :-1, 2:], atol=1e-5)
    assert torch.allclose(moved(x, torch.zeros(2, 4, 6, 2)), x, atol=1e-5)
    finer = (
        flow.repeat_interleave(2, 1).repeat_interleave(2, 2) * 2
    )  # the same motion, counted in finer cells
    assert torch.allclose(moved(x, finer), moved(x, flow), atol=1e-4)


def test_flow_over_several_frames_is_the_whole_shift(rng):
    big = textured(rng)
    frames = [np.ascontiguousarray(big[20:116, 20 + 4 * t : 148 + 4 * t]) for t in range(3)]
    flow = flow_over(frames)
    assert flow.shape == (24, 32, 2)  # a quarter of the frame, 8 pixels in all are 2 cells
    assert np.abs(np.median(flow[4:-4, 4:-4], (0, 1)) - (2, 0)).max() < 0.3


def test_without_motion_the_losses_stay_as_they_were(rng):
    torch.manual_seed(0)
    network = build("dcfm", "mobilenet_v1", 3, dropout=0.0).eval()
    batch = {"frames": torch.randn(2, 2, 3, 64, 64), "labels": torch.zeros(2, 2, 64, 64, dtype=torch.long)}
    still = network.loss({**batch, "flow": torch.zeros(2, 16, 16, 2)})
    for name, value in network.loss(batch).items():
        assert still[name].item() == pytest.approx(value.item(), rel=1e-3), name


def test_the_right_flow_makes_a_shifted_neighbour_as_good_as_the_frame(rng):
    torch.manual_seed(0)
    network = build("dcfm", "mobilenet_v1", 3, dropout=0.0).eval()
    big = torch.from_numpy(textured(rng, 224, 224)).movedim(-1, 0)[None].float() / 64 - 2
    pair = torch.stack(
        [big[..., :224, :224], big[..., :224, 32:256]], 1
    )  # 32 pixels, a cell of the deepest map
    labels = torch.zeros(1, 2, 224, 224, dtype=torch.long)
    labels[..., 112:] = 1
    flow = torch.zeros(1, 56, 56, 2)
    flow[..., 0] = -8
    with torch.no_grad():
        wrong = network.loss({"frames": pair, "labels": labels})
        right = network.loss({"frames": pair, "labels": labels, "flow": flow})
    assert right["consistency"] < 0.5 * wrong["consistency"]


class Passing:
    """A texture that passes the camera at 8 pixels a frame."""

    name, classes = "passing", ["a", "b"]

    def __init__(self, rng):
        self.big = textured(rng, 96, 300)

    def clip(self, i, offsets):
        frames = [np.ascontiguousarray(self.big[20:116, 100 + 8 * o : 228 + 8 * o]) for o in offsets]
        return Clip(frames, [np.zeros((96, 128), np.uint8) for _ in offsets], 0, "passing", i)


def test_validation_moves_an_older_keyframes_memory(rng, monkeypatch):
    torch.manual_seed(0)
    network, data = build("dcfm", "mobilenet_v1", 2).eval(), Passing(rng)
    asked = []
    fuse = type(network).fuse
    monkeypatch.setattr(
        type(network), "fuse", lambda self, x, memory: asked.append(memory[0]) or fuse(self, x, memory)
    )
    segment(network, data, 0, (96, 128), age=3)
    segment(network, data, 0, (96, 128))
    older, own = (memory[0, 4:-4, 4:-12].flatten() for memory in asked)
    still = network.remember(network.encode(torch.zeros(1, 3, 96, 128)))[0][0, 4:-4, 4:-12].flatten()
    assert torch.corrcoef(torch.stack([older, own]))[0, 1] > torch.corrcoef(torch.stack([still, own]))[0, 1]
