"""Counting over a stream: patches in turn, points that move along, counts that are smoothed; alike on every runtime."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.counting import counting_card
from fixtures.motion import texture, window
from vss_ros.config import VssError
from vss_ros.data.open import open_dataset
from vss_ros.node_config import CountConfig
from vss_ros.stream.count import CountStream, load_counter
from vss_ros.stream.load import load_stream
from vss_ros.stream.tiles import CELL


class Eyes:
    """A backend that sees white squares of 5 pixels without fault."""

    size = (64, 64)

    def __init__(self):
        self.calls = 0

    def propagate(self, frame, memories):
        self.calls += 1
        rows, columns = np.nonzero(frame[..., 0] == 255)
        points = (np.stack([rows, columns], 1) + 0.5) / 64
        density = np.zeros((1, 1, 8, 8), np.float32)
        np.add.at(density[0, 0], (rows // CELL, columns // CELL), 1)
        return np.ones((1, len(points))), points[None], density

    def arrays(self, answer):
        return tuple(np.asarray(x, np.float32) for x in answer)


def counter(**options) -> CountStream:
    return CountStream(
        Eyes(), SimpleNamespace(name="eyes", classes=["dot"]), CountConfig(overlap=0, **options)
    )


def picture(rng, dots, size=(128, 192), shift=0):
    """Grey texture that moves with its dots: white pixels, found as points."""
    base = rng.integers(40, 200, (size[0] // 8, size[1] // 8 + 8), np.uint8)
    ground = np.kron(base, np.ones((8, 8), np.uint8))[:, 32 - shift : 32 - shift + size[1]]
    image = np.repeat(ground[..., None], 3, 2).copy()
    for x, y in dots:
        image[y, x + shift] = 255
    return image


DOTS = [(20, 20), (100, 30), (50, 100), (150, 110), (63, 64)]


def test_all_patches_at_once(rng):
    stream = counter()
    result = stream(picture(rng, DOTS), 0.0)
    assert result.count == 5 and result.by_density == 5 and result.smoothed == 5
    assert result.coverage == 1 and result.is_keyframe and result.reset == "first frame"
    assert sorted((x - 0.5, y - 0.5) for x, y in result.points[:, :2].tolist()) == sorted(DOTS)
    assert stream.backend.calls == len(stream.tiles) == 6


def test_a_frame_answers_no_more_patches_than_it_may(rng):
    stream = counter(patches=2)
    image = picture(rng, DOTS)
    found = [stream(image, t / 10) for t in range(4)]
    assert [r.answered for r in found] == [2] * 4 and stream.backend.calls == 8
    assert [r.coverage for r in found] == [pytest.approx(v) for v in (1 / 3, 2 / 3, 1, 1)]
    assert [r.count for r in found[2:]] == [5, 5] and not found[2].is_keyframe
    assert found[2].age == 2 and found[3].age == 2
    assert found[2].smoothed == 5


def test_points_move_along_until_it_is_their_turn():
    stream = counter(patches=1)
    still = picture(np.random.default_rng(1), DOTS)
    for t in range(6):
        stream(still, t / 10)
    moved = stream(picture(np.random.default_rng(1), DOTS, shift=4), 0.6)
    assert moved.count == 5
    places = sorted(moved.points[:, :2].tolist())
    for (x, y), (u, v) in zip(sorted((x + 4.5, y + 0.5) for x, y in DOTS), places, strict=True):
        assert abs(x - u) < 1.5 and abs(y - v) < 1.5


def test_points_that_leave_the_picture_are_gone_and_a_cut_starts_anew():
    """Along the flow of `media.motion`, as everything else that is remembered."""
    base = texture(3)
    stream = counter(patches=1)
    frame = window(base, 0, size=(128, 192))
    frame[60, 3] = 255
    for t in range(6):
        stream(frame, t / 10)
    assert len(stream.points) == 1
    for t, x in enumerate((2, 4, 6), 6):
        stream.answered_at = [0] + [99] * 5  # the dot's own patch is not asked
        result = stream(window(base, x, size=(128, 192)), t / 10)
    assert not result.reset and result.count == 0
    other = window(texture(9), 0, size=(128, 192))
    other[60, 100] = 255
    stream.points = np.array([[50.0, 50.0, 1.0]], np.float32)
    assert "a cut" in stream(other, 1.0).reset and stream.index == 1
    assert not any((stream.points[:, :2] == 50).all(1))


def test_a_cut_from_a_picture_without_points_starts_anew():
    """That its patches were empty says nothing of the other picture's."""
    stream = counter(patches=1)
    for t in range(6):
        result = stream(np.minimum(window(texture(3), 0, size=(128, 192)), 254), t / 10)
    assert result.count == 0 and result.coverage == 1
    result = stream(np.minimum(window(texture(9), 0, size=(128, 192)), 254), 0.6)
    assert "a cut" in result.reset and result.coverage == pytest.approx(1 / 6)


def test_turning_patches_off_and_on_moves_nothing_twice(rng):
    stream, still = counter(patches=1), picture(rng, DOTS)
    for t in range(6):
        stream(still, t / 10)
    stream.configure(CountConfig(overlap=0, patches=0))
    stream(picture(np.random.default_rng(1), DOTS, shift=8), 0.6)
    stream.configure(CountConfig(overlap=0, patches=1))
    result = stream(picture(np.random.default_rng(1), DOTS, shift=8), 0.7)
    assert sorted(x - 8.5 for x in result.points[:, 0]) == sorted(x for x, _ in DOTS)


@pytest.mark.parametrize("frame", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), None])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(VssError, match=r"expected an .H, W, 3. uint8"):
        counter()(frame, 0.0)
    with pytest.raises(VssError, match="stamp: expected seconds"):
        counter()(np.zeros((64, 64, 3), np.uint8), float("nan"))


def test_counts_are_smoothed_by_the_median(rng):
    stream = counter(smooth=3)
    base = picture(rng, [])
    counts = [0, 4, 0, 0, 2, 2]
    found = []
    for t, n in enumerate(counts):
        image = base.copy()
        image[10, 10 : 10 + 2 * n : 2] = 255
        found.append(stream(image, t / 10).smoothed)
    assert found == [0, 2, 0, 0, 0, 2]


def test_it_starts_anew_where_nothing_before_is_of_use(rng):
    stream = counter(max_gap=1.0)
    image = picture(rng, DOTS)
    assert stream(image, 5.0).reset and not stream(image, 5.1).reset
    assert "went back" in stream(image, 1.0).reset
    assert "without a frame" in stream(image, 3.0).reset
    small = stream(image[:64, :64], 3.1)
    assert "size changed" in small.reset and small.count == 1


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_every_runtime_answers_alike(tmp_path, rng, backend):
    pytest.importorskip(backend)
    card = counting_card(tmp_path)
    image = rng.integers(0, 256, (80, 100, 3), np.uint8)
    reference = load_counter(card, backend="torch", precision="f32")(image, 0.0)
    found = load_counter(card, backend=backend, precision="f32")(image, 0.0)
    assert reference.count > 0 and found.count == reference.count
    order = [np.lexsort(r.points.T) for r in (found, reference)]
    assert np.allclose(found.points[order[0]], reference.points[order[1]], atol=0.1)
    assert np.allclose(found.density, reference.density, atol=1e-3)


def test_an_answer_that_is_no_number_is_refused(rng):
    stream = counter()
    stream.backend.propagate = lambda frame, memories: (
        np.ones((1, 1)),
        np.full((1, 1, 2), np.nan),
        np.zeros((1, 1, 8, 8)),
    )
    with pytest.raises(VssError, match="not finite"):
        stream(picture(rng, DOTS), 0.0)


def test_the_installed_model_counts_streets_that_it_has_not_seen():
    data = open_dataset("street_points", "test")
    stream, off = load_counter(backend="torch", max_gap=0.0), []
    assert stream.card.name == "street_count" and stream.card.classes == data.classes
    for i in range(0, len(data), len(data) // 6):
        image, truth = data.read(i)
        stream.reset()
        result = stream(image, 0.0)
        off.append((abs(result.count - len(truth)), abs(result.by_density - len(truth))))
    points, density = np.mean(off, 0)
    assert points < 3 and density < 2  # objects, of 7.7


def test_a_segmentation_model_does_not_count(tiny_card):
    with pytest.raises(VssError, match="expected one that counts"):
        load_counter(tiny_card, backend="torch")


def test_a_counting_model_does_not_segment(tmp_path):
    with pytest.raises(VssError, match="its task is counting, expected segmentation"):
        load_stream(counting_card(tmp_path), backend="torch")
