"""Labels as pictures, by hand-made pixels."""

import cv2
import numpy as np
import pytest
from fixtures.paths import ROOT
from vss_ros.config import VssError
from vss_ros.media.draw import colorize, contact_sheet, overlay, write_image

PALETTE = [[10, 20, 30], [200, 100, 0]]
LABELS = np.array([[0, 1], [255, 2]], np.uint8)


def test_colorize():
    colours = colorize(LABELS, PALETTE)
    np.testing.assert_array_equal(colours, [[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [0, 0, 0]]])
    np.testing.assert_array_equal(colorize(LABELS.T, np.array(PALETTE, np.uint8)), colours.swapaxes(0, 1))


def test_overlay_mixes_and_leaves_unlabelled_pixels():
    rgb = np.full((2, 2, 3), 100, np.uint8)
    mixed = overlay(rgb, LABELS, PALETTE, 0.5)
    np.testing.assert_array_equal(mixed, [[[55, 60, 65], [150, 100, 50]], [[100] * 3, [100] * 3]])
    np.testing.assert_array_equal(overlay(rgb, LABELS, PALETTE, 0.0), rgb)
    assert (rgb == 100).all()
    rgb.flags.writeable = False
    np.testing.assert_array_equal(overlay(rgb, LABELS, PALETTE, 0.5), mixed)
    with pytest.raises(VssError, match="size"):
        overlay(rgb, LABELS[:1], PALETTE)


def test_contact_sheet_places_images_row_by_row():
    tiles = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    tiles[1] = np.full((8, 12, 3), 20, np.uint8)
    sheet = contact_sheet(tiles, columns=2, gap=1)
    assert sheet.shape == (9, 13, 3)
    assert [sheet[0, 0, 0], sheet[0, 7, 0], sheet[5, 0, 0], sheet[5, 7, 0], sheet[4, 0, 0]] == [
        10,
        20,
        30,
        255,
        255,
    ]
    assert contact_sheet(tiles[:1], columns=5).shape == (4, 6, 3)
    with pytest.raises(VssError):
        contact_sheet([])


def test_a_full_disk_is_an_error_of_every_picture(tmp_path, monkeypatch):
    """OpenCV's own writer says it by its answer alone."""
    write_image(tmp_path / "a.png", np.full((2, 3), 7, np.uint8))
    assert (cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED) == 7).all()
    with pytest.raises(OSError, match="No such file"):
        write_image(tmp_path / "none" / "a.png", np.zeros((2, 3), np.uint8))
    for path in (ROOT / "ros2_ws" / "src" / "vss_ros").rglob("*.py"):
        assert "cv2.imwrite" not in path.read_text(), f"{path}: media.draw.write_image tells a full disk"
