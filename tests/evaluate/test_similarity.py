"""How alike features of neighbouring frames are, on clips where that is known."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.motion import texture, window
from vss_ros import cli
from vss_ros.data.street.street import CLASSES, PALETTE
from vss_ros.evaluate.similarity import measure
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, save_model

SIZE = (64, 96)
CARD = SimpleNamespace(size=SIZE, mean=[0.0] * 3, std=[1.0] * 3)


@dataclass
class Seen:
    """A network whose independent feature is the colour of a cell of 4 × 4 pixels, and so is its common one, or one
    direction for all."""

    constant: bool
    steps: int = 1

    def __post_init__(self):
        self.backbone = SimpleNamespace(part=lambda features, start, stop: features)

    def encode(self, frame):
        return (F.avg_pool2d(frame, 4),)

    def summarise(self, maps):
        return torch.ones_like(maps[0]) if self.constant else maps[0]


def plain(channel):
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[..., channel] = 200
    return frame


def measured(constant, videos, farthest):
    network = torch.nn.Module()
    for name in ("encode", "summarise", "backbone", "steps"):
        object.__setattr__(network, name, getattr(Seen(constant), name))
    return measure(network, CARD, videos, farthest)


def test_frames_that_take_turns_are_alike_every_second_frame():
    turns = [plain(t % 2) for t in range(5)]
    found, pair = measured(True, [turns, turns[:2]], 9)
    assert found["independent"] == pytest.approx([0, 1, 0, 1], abs=1e-6)
    assert found["common"] == pytest.approx([1] * 4)
    assert np.array_equal(pair[0], turns[0]) and np.array_equal(
        pair[1], turns[4]
    )  # the farthest apart that there is
    assert pair[2].shape == pair[3].shape == (16, 24)


def test_a_feature_that_moves_as_the_picture_does_is_found_along_the_flow():
    camera = [window(texture(), 4 * t, size=SIZE) for t in range(4)]
    found, _ = measured(False, [camera], 3)
    assert found["common"] == found["independent"]
    stays, moves = 1 - np.array(found["common"]), 1 - np.array(found["common_moved"])
    assert (np.diff(stays) > 0).all() and (moves < 0.2 * stays).all()


def card_of(network, folder):
    torch.manual_seed(0)
    fields = {"network": network, "backbone": "mit_b0", "classes": list(CLASSES), "palette": PALETTE.tolist()}
    files = {"weights": f"{network}.safetensors", "sha256": "", "licence": "none"}
    card = ModelCard(name=network, size=list(SIZE), **fields, **files)
    return save_model(build(network, "mit_b0", len(CLASSES)), card, folder)


def test_the_command_writes_figures_and_picture_of_videos_and_refuses_all_else(tmp_path, capsys):
    for number in range(4):
        for kind, image in (
            ("images", window(texture(), number, size=SIZE)),
            ("labels", np.zeros(SIZE, np.uint8)),
        ):
            (tmp_path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / f"{number}.png"), image)
    text = f"classes: [{', '.join(CLASSES)}]\nval: {{images: images, labels: labels}}\n"
    (tmp_path / "video.yaml").write_text(text)
    (tmp_path / "photos.yaml").write_text(f"{text}fps: 1\n")
    out = tmp_path / "out"
    line = ["evaluate", "--split", "val", "--k", "1", "--backend", "torch", "--out", str(out)]
    dcfm, video = str(card_of("dcfm", tmp_path)), str(tmp_path / "video.yaml")
    assert cli.main([*line, "--model", dcfm, "--data", video, "--similarity", "2"]) == 0
    found = json.loads((out / "dcfm_video_val.json").read_text())["similarity"]
    assert all(len(values) == 2 and 0 < min(values) <= max(values) <= 1.00001 for values in found.values())
    assert f"| independent | {found['independent'][0]:.3f} |" in (out / "dcfm_video_val.md").read_text()
    assert cv2.imread(str(out / "dcfm_video_val_similarity.png")) is not None
    other = str(card_of("segformer", tmp_path))
    assert cli.main([*line, "--model", other, "--data", video, "--similarity", "2"]) == 1
    assert "segformer is segformer" in capsys.readouterr().err
    photos = str(tmp_path / "photos.yaml")
    assert cli.main([*line, "--model", dcfm, "--data", photos, "--similarity", "2"]) == 1
    assert "frames at a video's rate" in capsys.readouterr().err
