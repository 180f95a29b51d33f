"""Camera calibrations: files as camera_calibration writes them, their checks, and undistorted images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml
from fixtures.paths import ROOT
from vss_ros.config import VssError
from vss_ros.media.camera_info import Rectifier, read_camera_info, scale_intrinsics

FRONT = """
image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [500, 0, 320, 0, 501, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [490, 0, 320, 0, 0, 491, 240, 0, 0, 0, 1, 0]}
"""
LENSES = {
    "plumb_bob": [-0.3, 0.1, 0.001, -0.002, 0.01],
    "rational_polynomial": [0.4, 0.1, 0.001, -0.001, 0.02, 0.7, 0.2, 0.05],
    "equidistant": [-0.02, 0.01, -0.003, 0.001],
}


@pytest.fixture
def front(tmp_path):
    def write(old="", new=""):
        path = tmp_path / "front.yaml"
        path.write_text(FRONT.replace(old, new) if old else FRONT)
        return path

    return write


def test_a_calibration_file(front):
    info = read_camera_info(f"file://{front()}")
    assert (info["width"], info["height"], info["distortion_model"]) == (640, 480, "plumb_bob")
    assert info["d"] == [0.1, -0.2, 0, 0, 0]
    assert (info["k"][4], info["p"][5], info["r"][8]) == (501, 491, 1)


def test_the_example_is_the_streets_camera():
    from vss_ros.data.street.street import Street

    info = read_camera_info("package://vss_ros/calibration/street.yaml")
    assert info == read_camera_info(ROOT / "calibration" / "street.yaml")
    height, width = info["height"], info["width"]
    street = Street(seed=0, size=(height, width))
    expected = [street.focal, 0, (width - 1) / 2, 0, street.focal, street.horizon * height, 0, 0, 1]
    np.testing.assert_allclose(info["k"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (FRONT, "", "expected the YAML of camera_calibration"),
        (FRONT, "[1, 2", "expected the YAML of camera_calibration"),
        ("camera_matrix", "matrix", "'camera_matrix' is missing"),
        ("[500, 0, ", "[", "camera_matrix: expected 3 rows, 3 cols and 9 values, got .* 7 values"),
        ("rows: 3, cols: 4", "rows: 4, cols: 3", "projection_matrix: expected 3 rows, 4 cols"),
        ("500", "x", "could not convert string"),
        ("500", ".nan", "expected finite numbers"),
        ("[500, 0, 320, 0, 501, 240, 0, 0, 1]", "[0,0,0,0,0,0,0,0,0]", "the camera is not calibrated"),
        ("490, 0, 320, 0", "-490, 0, 320, 0", r"P \(projection_matrix\): expected .* fx, fy > 0"),
        ("image_width: 640", "image_width: 640.5", "image_width: expected a positive whole number"),
        (
            "plumb_bob",
            "fisheye",
            "expected one of plumb_bob, rational_polynomial, equidistant, got 'fisheye'",
        ),
        ("plumb_bob", "equidistant", "equidistant has 4 values, got 5"),
        ("[1, 0, 0, 0, 1, 0, 0, 0, 1]}\np", "[2, 0, 0, 0, 1, 0, 0, 0, 1]}\np", "expected a rotation"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(front, old, new, message):
    with pytest.raises(VssError, match=rf"front\.yaml: .*{message}"):
        read_camera_info(front(old, new))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/none.yaml", "none.yaml: .*No such file"),
        ("package://no_such_package/a.yaml", "no_such_package: this package is not found"),
        ("flash://x", "expected a path, file:///PATH or package://NAME/PATH"),
    ],
)
def test_urls_that_lead_nowhere(url, message):
    with pytest.raises(VssError, match=message):
        read_camera_info(url)


def camera(model: str, k: np.ndarray, p: np.ndarray) -> dict:
    info = yaml.safe_load(FRONT)
    return {
        "width": info["image_width"],
        "height": info["image_height"],
        "distortion_model": model,
        "d": LENSES[model],
        "k": k.ravel(),
        "r": np.eye(3).ravel(),
        "p": p.ravel(),
    }


@pytest.mark.parametrize("model", LENSES)
def test_points_of_the_world_land_where_p_says(model):
    """Dots drawn at the distorted projections of points on a wall come out at their pinhole projections."""
    k = np.array([[420.0, 0, 310], [0, 430, 250], [0, 0, 1]])
    p = np.array([[300.0, 0, 320, 0], [0, 305, 240, 0], [0, 0, 1, 0]])
    wall = np.array([[x, y, 2.0] for x in (-1, -0.4, 0.3, 0.9) for y in (-0.8, 0.1, 0.7)])
    still, d = np.zeros(3), np.array(LENSES[model])
    if model == "equidistant":
        seen, _ = cv2.fisheye.projectPoints(wall[:, None], still, still, k, d)
    else:
        seen, _ = cv2.projectPoints(wall, still, still, k, d)
    image = np.zeros((480, 640), np.uint8)
    for x, y in seen.reshape(-1, 2):
        cv2.circle(image, (round(x * 16), round(y * 16)), 4 * 16, 255, -1, cv2.LINE_AA, 4)
    flat = Rectifier(camera(model, k, p))(image)
    _, _, _, centres = cv2.connectedComponentsWithStats((flat > 127).astype(np.uint8))
    expected = (wall @ p[:, :3].T)[:, :2] / 2
    assert len(centres) - 1 == len(wall)
    for point in expected:
        assert np.linalg.norm(centres[1:] - point, axis=1).min() < 0.5


def test_a_perfect_camera_is_left_alone(rng):
    k = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    info = camera("plumb_bob", k, np.hstack([k, np.zeros((3, 1))])) | {"d": [0.0] * 5}
    rectifier = Rectifier(info)
    image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    np.testing.assert_array_equal(rectifier(image), image)
    assert not rectifier.outside.any()


def test_what_the_camera_did_not_see_is_known():
    k = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    wide = np.array([[200.0, 0, 320, 0], [0, 200, 240, 0], [0, 0, 1, 0]])  # twice the view of the camera
    outside = Rectifier(camera("plumb_bob", k, wide) | {"d": [0.0] * 5}).outside
    assert set(np.unique(outside)) == {0, 255}
    assert not outside[122:358, 162:478].any() and outside[:118].all() and outside[:, :158].all()


def test_scale_intrinsics_by_hand():
    k, p = scale_intrinsics(
        [400, 0, 320, 0, 410, 240, 0, 0, 1], [400, 0, 320, -40, 0, 410, 240, 0, 0, 0, 1, 0], 0.5, 0.25
    )
    np.testing.assert_array_equal(k, [200, 0, 160, 0, 102.5, 60, 0, 0, 1])
    np.testing.assert_array_equal(p, [200, 0, 160, -20, 0, 102.5, 60, 0, 0, 0, 1, 0])
    k, p = scale_intrinsics(np.zeros(9), np.zeros(12), 2, 2)
    assert not k.any() and not p.any()
