"""Flow, composition and the filter against motions that are known."""

from __future__ import annotations

import gc
import itertools

import cv2
import numpy as np
import pytest
from fixtures.motion import CELLS, SIZE, texture, window
from vss_ros.data.street.street import Street
from vss_ros.media.motion import Motion, Step, grid, move, move_points, refined, resize_flow

INNER = (slice(4, -4), slice(4, -4))  # what stays in sight


def step_of(flow):
    return Step(flow.astype(np.float32), np.ones(flow.shape[:2], np.float32), 0.0, True)


def rotation(angle, size=(40, 60)):
    """Backward flow of a turn about the middle: where each cell was before."""
    centre = np.float32((size[1] - 1, size[0] - 1)) / 2
    c, s = np.cos(angle), np.sin(angle)
    x = grid(size) - centre
    return x @ np.float32([[c, s], [-s, c]]) - x


def test_a_small_thing_that_moves_by_itself_is_followed():
    """A square of 24 pixels on a still scene, by a cell a frame; DIS alone errs by 0.156."""
    motion, scene, thing = Motion(SIZE), window(texture(), 0), texture(1)[:24, :24]
    for x in (40, 44, 48):
        rgb = scene.copy()
        rgb[24:48, x : x + 24] = thing
        step = motion.step(rgb)
    inside, far = step.flow[7:11, 13:17], step.flow[:, 26:]
    assert np.abs(inside - np.float32((-1, 0))).mean() < 0.15 and np.abs(far).mean() < 0.01


def test_a_flow_that_is_nearly_right_is_made_better():
    picture = cv2.cvtColor(texture(), cv2.COLOR_RGB2GRAY)
    now, earlier = (np.ascontiguousarray(picture[100:160, x : x + 80]) for x in (100, 103))
    true = np.full((60, 80, 2), (-3, 0), np.float32)  # what is here now lay 3 to the left
    flow, difference = refined(now, earlier, true + np.float32((0.6, -0.4)))
    assert np.abs(flow - true)[8:-8, 8:-8].mean() < 0.22, "of 0.5"
    assert np.array_equal(difference, cv2.absdiff(move(earlier, flow), now))
    kept, _ = refined(now, earlier, true)
    assert np.array_equal(kept[:, 4:], true[:, 4:]), "nothing is more alike than the same"


def test_where_nothing_is_to_be_seen_the_flow_stays():
    flat, flow = np.full((24, 32), 90, np.uint8), np.full((24, 32, 2), (0.3, -1.2), np.float32)
    found, difference = refined(flat, flat, flow)
    assert np.abs(found - flow).max() < 1e-5 and not difference.any()


def test_steps_keep_their_flow():
    """The next frame's flow begins at the last one's, which someone may still hold."""
    motion, picture = Motion(SIZE), texture()
    motion.step(window(picture, 0))
    step = motion.step(window(picture, 4))
    kept = step.flow.copy()
    for x in (12, 24, 30):
        motion.step(window(picture, x))
    assert np.array_equal(step.flow, kept)


def test_after_a_cut_or_a_pause_the_flow_begins_anew():
    """What moved before it says nothing."""
    pictures = [window(texture(), x) for x in (0, 8, 16)]
    fresh = Motion(SIZE)
    fresh.step(window(texture(1), 0))
    expected = fresh.step(window(texture(1), 4)).flow
    motion = Motion(SIZE)
    for rgb in pictures:
        motion.step(rgb)
    assert not motion.step(window(texture(1), 0)).trusted
    assert np.array_equal(motion.step(window(texture(1), 4)).flow, expected)
    motion.reset()
    motion.step(window(texture(1), 0))
    assert np.array_equal(motion.step(window(texture(1), 4)).flow, expected)


@pytest.mark.parametrize("channels", [1, 3, 700])
def test_a_map_moved_by_whole_cells_is_shifted_and_its_border_repeated(rng, channels):
    before = rng.standard_normal((12, 16, channels), dtype=np.float32)
    flow = np.zeros((12, 16, 2), np.float32)
    flow[..., 0], flow[..., 1] = -3, 2  # what is here now lay 3 to the left and 2 below
    now = move(before, flow)
    assert now.shape == before.shape
    assert np.array_equal(now[:10, 3:], before[2:, :13])
    assert np.array_equal(now[:, 0], now[:, 3]) and np.array_equal(now[11], now[9])


def test_a_flow_on_another_grid_counts_its_cells():
    flow = np.full((10, 20, 2), (4.0, 2.0), np.float32)
    assert np.allclose(resize_flow(flow, (5, 10)), (2.0, 1.0))
    assert np.allclose(resize_flow(flow, (20, 40)), (8.0, 4.0))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (6, 0), (-4, 2), (0, 8)])
def test_flow_of_a_shifted_picture_is_the_shift(x, y):
    motion, picture = Motion(SIZE), texture()
    assert motion.step(window(picture, 0)) is None
    step = motion.step(window(picture, x, y))
    assert step.flow.shape == (*CELLS, 2) and step.trusted
    assert np.abs(step.flow[INNER] - np.float32((x, y)) / 4).mean() < 0.1
    assert step.likeness.shape == CELLS and step.likeness[INNER].mean() > 0.8


def test_what_comes_in_at_the_border_is_like_nothing_before():
    motion, picture = Motion(SIZE), texture()
    motion.step(window(picture, 0))
    step = motion.step(window(picture, 12))  # the camera turns right by 3 cells
    assert (step.likeness[4:-4, -2:] == 0).mean() > 0.9 and step.likeness[4:-4, :-6].mean() > 0.7


def test_composed_flows_of_neighbours_are_the_whole_way_back():
    motion, picture = Motion(SIZE), texture()
    motion.step(window(picture, 0))
    track = motion.track()
    for x in range(3, 19, 3):
        motion.step(window(picture, x))
    assert np.abs(track.flow[4:-4, 4:-10] - (4.5, 0)).mean() < 0.25
    assert motion.likeness(track)[4:-4, 4:-10].mean() > 0.8


def test_composed_rotations_are_one_rotation():
    track = Motion((160, 240)).track()
    for _ in range(10):
        track.step(step_of(rotation(0.02)))
    inside = np.linalg.norm(grid((40, 60)) - (29.5, 19.5), axis=-1) < 17
    assert np.abs(track.flow - rotation(0.2))[inside].max() < 0.05


def test_a_track_that_nobody_holds_costs_nothing():
    motion = Motion(SIZE)
    motion.step(window(texture(), 0))
    held = [motion.track() for _ in range(3)]
    del held
    gc.collect()
    assert len(motion.tracks) == 0


def test_a_cut_is_not_trusted_and_tracks_stay_where_they_are():
    motion = Motion(SIZE)
    motion.step(window(texture(0), 0))
    track = motion.track()
    step = motion.step(window(texture(1), 0))
    assert not step.trusted and step.residual > 5 and track.flow is None
    assert motion.step(window(texture(1), 3)).trusted


def test_cuts_between_streets_are_seen_and_a_drive_with_gaps_has_none():
    drives = [[Street(seed, (180, 240)).frame(t)[0] for t in (0, 5, 10)] for seed in (5, 6, 8)]
    for here, there in itertools.permutations(drives, 2):
        motion = Motion((180, 240))
        _, *steps = [motion.step(rgb) for rgb in here]
        assert all(step.trusted for step in steps)
        motion.reset()
        motion.step(here[0])
        assert not motion.step(there[0]).trusted


def test_a_frozen_camera_moves_nothing():
    motion, frame = Motion(SIZE), window(texture(), 0)
    motion.step(frame)
    step = motion.step(frame.copy())
    assert step.trusted and step.residual == 0 and not step.flow.any() and (step.likeness == 1).all()


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 40), (0.6, 0), (0.5, 60)])
def test_a_jump_of_exposure_is_no_cut(gain, offset):
    motion, picture = Motion(SIZE), texture()
    motion.step(window(picture, 0))
    step = motion.step(cv2.convertScaleAbs(window(picture, 4), alpha=gain, beta=offset))
    assert step.trusted and step.residual < 10
    assert np.abs(step.flow[INNER] - (1, 0)).mean() < 0.25


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 300)])
def test_tiny_frames(size):
    motion = Motion(size)
    for shade in (0, 50, 200):
        step = motion.step(np.full((*size, 3), shade, np.uint8))
    assert step.flow.shape == (-(-size[0] // 4), -(-size[1] // 4), 2)


@pytest.mark.parametrize("size", [(96, 1600), (1600, 96), (96, 128), (360, 480)])
def test_what_is_compared_is_as_sharp_as_the_cells(size):
    """Where the flow's image is larger than the cells one way and smaller the other, too."""
    motion, picture = Motion(size), texture(size=size)
    motion.step(picture)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    exact = cv2.resize(grey, motion.cells[::-1], interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(motion.small, exact).mean() < 1


def test_the_same_frames_give_the_same_bits():
    picture = texture()

    def run():
        motion = Motion(SIZE)
        motion.step(window(picture, 0))
        track = motion.track()
        for x in range(1, 6):
            motion.step(window(picture, 2 * x, x))
        return track.flow

    assert np.array_equal(run(), run())


@pytest.mark.parametrize("size", [(36, 48), (37, 51), (200, 48), (720, 960), (30, 1000)])
def test_the_flow_of_frames_of_another_size_than_the_network(size):
    motion, picture = Motion(SIZE), texture()
    step = [motion.step(cv2.resize(window(picture, x), size[::-1])) for x in (0, 4)][1]
    assert step.flow.shape == (*CELLS, 2) and step.likeness.shape == CELLS
    if min(size) > 700:  # sharp enough to be exact
        assert np.abs(step.flow[INNER] - (1, 0)).mean() < 0.1


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_points_go_where_the_map_goes(scale, rng):
    smooth = cv2.GaussianBlur(rng.normal(size=(40, 60, 2)).astype(np.float32), (0, 0), 8)
    flow = smooth / np.abs(smooth).max() * scale + np.float32([2.0, -1.0])
    points = np.stack([rng.uniform(10, 50, 30), rng.uniform(10, 30, 30)], 1)
    moved = move_points(points, flow)
    back = cv2.remap(grid((40, 60)) + flow, moved.astype(np.float32)[None], None, cv2.INTER_LINEAR)[0]
    assert np.abs(back - points).max() < 0.05


def test_a_bump_and_its_point():
    bump = np.zeros((20, 30), np.float32)
    bump[8, 10] = 1
    flow = np.full((20, 30, 2), (-3, 2), np.float32)  # the map's (10, 8) is now at (13, 6)
    y, x = np.unravel_index(move(bump, flow).argmax(), bump.shape)
    assert move_points(np.array([[10.0, 8.0]]), flow).tolist() == [[x, y]] == [[13, 6]]
    assert move_points(np.zeros((0, 2)), flow).shape == (0, 2)
