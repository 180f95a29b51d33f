"""Every kind of source, whole and damaged."""

import logging

import cv2
import numpy as np
import pytest
from fixtures.paths import find_data
from vss_ros.config import VssError
from vss_ros.data.source import open_source
from vss_ros.media.bags import BagWriter, typestore


def frames_of(source):
    frames = list(source)
    return [rgb for rgb, _ in frames], [stamp for _, stamp in frames]


def flat(value, height=24, width=32):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve PNG files, numbered without leading zeros, among other files."""
    path = tmp_path / "frames"
    path.mkdir()
    for index in range(12):
        rgb = flat(index)
        rgb[0, 0] = (200, 100, 0)
        cv2.imwrite(str(path / f"frame_{index}.png"), rgb[..., ::-1])
    (path / "notes.txt").write_text("not an image")
    (path / "._frame_0.png").write_bytes(b"rubbish of another file system")
    return path


def test_folder_in_natural_order(folder):
    source = open_source(folder)
    assert (source.length, source.fps, source.size, source.camera_info) == (12, 30.0, (24, 32), None)
    frames, stamps = frames_of(source)
    assert [int(rgb[5, 5, 0]) for rgb in frames] == list(range(12))
    assert frames[3][0, 0].tolist() == [200, 100, 0]
    np.testing.assert_allclose(stamps, np.arange(12) / 30, atol=1e-8)
    assert len(frames_of(source)[0]) == 12, "a source can be read again"


def test_fps_of_a_folder(folder):
    _, stamps = frames_of(open_source(folder, fps=10))
    np.testing.assert_allclose(stamps, np.arange(12) / 10, atol=1e-8)
    with pytest.raises(VssError, match="positive rate"):
        open_source(folder, fps=0)


def test_one_image_is_one_frame(folder):
    frames, _ = frames_of(open_source(folder / "frame_1.png"))
    assert len(frames) == 1
    assert frames[0][5, 5, 0] == 1


def test_other_formats(tmp_path):
    for extension in ("bmp", "ppm", "tiff", "JPG"):
        cv2.imwrite(str(tmp_path / f"image.{extension}"), flat(77))
    frames, _ = frames_of(open_source(tmp_path))
    assert len(frames) == 4
    for rgb in frames:
        np.testing.assert_array_equal(rgb, flat(77))


@pytest.mark.parametrize("name", ["frame_0.png", "frame_5.png"])
def test_a_damaged_image_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(VssError, match=name):
        frames_of(open_source(folder))


def test_what_is_not_there(tmp_path):
    with pytest.raises(VssError, match="no such file"):
        open_source(tmp_path / "none.mp4")
    with pytest.raises(VssError, match="found neither"):
        open_source(tmp_path)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    assert writer.isOpened()
    for index in range(20):
        bgr = flat(0, 48, 64)
        bgr[..., 2] = 10 * index  # red
        writer.write(bgr)
    writer.release()
    return path


def test_video(video):
    source = open_source(str(video))
    assert (source.size, source.fps, source.length) == ((48, 64), 12.5, 20)
    frames, stamps = frames_of(source)
    assert len(frames) == 20
    np.testing.assert_allclose(stamps, np.arange(20) / 12.5, atol=1e-8)
    for index, rgb in enumerate(frames):
        np.testing.assert_allclose(rgb.reshape(-1, 3).mean(axis=0), [10 * index, 0, 0], atol=4)


def test_a_video_cut_short_gives_what_is_there(video, caplog):
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        frames, _ = frames_of(open_source(video))
    assert 5 < len(frames) < 20
    assert "may be cut short" in caplog.text


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 20])
def test_what_is_not_a_video(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VssError, match=r"clip\.mp4: expected a video"):
        open_source(path)


def test_dashcam_video():
    source = open_source(find_data("driving") / "udacity_lanelines_solidWhiteRight.mp4")
    assert (source.size, source.fps, source.length) == ((540, 960), 25.0, 221)
    rgb, stamp = next(iter(source))
    assert rgb.shape == (540, 960, 3) and stamp == 0.0
    assert rgb[:100].mean(axis=(0, 1))[2] > rgb[:100].mean(axis=(0, 1))[0], "the sky is blue, not red"


def test_camvid_folder():
    source = open_source(find_data("camvid", "val"))
    assert (source.length, source.size) == (101, (360, 480))
    assert next(iter(source))[0].shape == (360, 480, 3)


@pytest.mark.parametrize(
    ("bag", "topic", "count", "size", "fps"),
    [
        ("svo_mono8_mcap", None, 5, (480, 752), 30),
        ("svo_mono8_mcap/svo_mono8_mcap.mcap", None, 5, (480, 752), 30),
        ("dvs_mono8_sqlite3", "/dvs/image_raw", 4, (260, 346), 25),
        ("derived_colour_sqlite3", "/camera/color/image_raw", 4, (90, 160), 25),
        ("derived_colour_sqlite3", "/camera/color/image_raw/compressed", 20, (270, 480), 25),
    ],
)
def test_recordings(bag, topic, count, size, fps):
    source = open_source(find_data("bags") / bag, topic)
    assert (source.length, source.size) == (count, size)
    assert source.fps == pytest.approx(fps, rel=0.05)
    frames, stamps = frames_of(source)
    assert [rgb.shape for rgb in frames] == [(*size, 3)] * count
    assert np.diff(stamps).min() > 0


def test_stamps_of_a_recording_are_the_headers():
    _, stamps = frames_of(open_source(find_data("bags") / "dvs_mono8_sqlite3", "/dvs/image_raw"))
    assert 1.54e9 < stamps[0] < 1.55e9, "taken in 2018, recorded in 2023"


def test_camera_info_of_a_recording():
    info = open_source(find_data("bags") / "svo_mono8_mcap").camera_info
    assert (info["width"], info["height"], info["distortion_model"]) == (752, 480, "plumb_bob")
    assert info["k"][0] == pytest.approx(414.536, abs=1e-3)
    assert [len(info[key]) for key in "dkrp"] == [5, 9, 9, 12]
    assert open_source(find_data("bags") / "dvs_mono8_sqlite3", "/dvs/image_raw").camera_info is None


def test_raw_and_compressed_topics_show_the_same_scene():
    raw, compressed = (
        next(iter(open_source(find_data("bags") / "derived_colour_sqlite3", topic)))[0]
        for topic in ("/camera/color/image_raw", "/camera/color/image_raw/compressed")
    )
    difference = cv2.resize(compressed, (160, 90), interpolation=cv2.INTER_AREA).astype(int) - raw
    assert np.abs(difference).mean() < 6


def test_several_image_topics_are_listed():
    with pytest.raises(VssError, match=r"choose one: .*/dvs/image_raw, /dvs1/image_raw"):
        open_source(find_data("bags") / "dvs_mono8_sqlite3")
    with pytest.raises(VssError, match=r"no images on '/imu/data'; expected one of /camera/image_raw"):
        open_source(find_data("bags") / "svo_mono8_mcap", "/imu/data")


@pytest.mark.parametrize("bag", ["sqlite3_talker", "mcap_wbag", "sqlite3_empty_bag", "mcap_cdr_test"])
def test_recordings_without_images(bag):
    with pytest.raises(VssError, match="no images, its topics are"):
        open_source(find_data("bags") / "rosbag2_official" / bag)


SECOND = 10**9


def record(path, header_stamps, encoding="rgb8", topics=("/camera/image_raw",)):
    """A bag of 4x6 images with these header stamps (ns), recorded one a second from 1000 s."""
    types = typestore().types
    with BagWriter(path) as bag:
        for index, stamp in enumerate(header_stamps):
            time = types["builtin_interfaces/msg/Time"](*divmod(stamp, SECOND))
            header = types["std_msgs/msg/Header"](time, "camera")
            message = types["sensor_msgs/msg/Image"](
                header, 4, 6, encoding, 0, 18, np.full(72, index, np.uint8)
            )
            for topic in topics:
                bag.write(topic, "sensor_msgs/msg/Image", message, (1000 + index) * SECOND)
    return path


def test_nanoseconds_are_exact(tmp_path):
    stamps = [1_700_000_000_123_456_789, 1_700_000_001_123_456_790]
    source = open_source(record(tmp_path / "bag", stamps))
    assert [stamp for _, stamp in source.frames()] == stamps


@pytest.mark.parametrize(
    ("headers", "expected", "reason"),
    [
        ([0, 0, 0], [1000, 1001, 1002], "zero"),
        ([50, 51, 50, 51], [50, 51, 52, 53], "not increasing"),
        ([50, 51, 51, 60], [50, 51, 52, 53], "not increasing"),
    ],
)
def test_unusable_header_stamps(tmp_path, caplog, headers, expected, reason):
    path = record(tmp_path / "bag", [stamp * SECOND for stamp in headers])
    with caplog.at_level(logging.WARNING):
        _, stamps = frames_of(open_source(path))
    assert stamps == expected
    assert caplog.text.count(f"header stamps are {reason}") == 1


def test_fps_retimes_a_recording(tmp_path):
    path = record(tmp_path / "bag", [50 * SECOND, 51 * SECOND, 57 * SECOND])
    source = open_source(path, fps=4)
    assert source.fps == 4
    np.testing.assert_allclose(frames_of(source)[1], [50, 50.25, 50.5])


def test_an_unknown_encoding_in_a_recording_is_named(tmp_path):
    path = record(tmp_path / "bag", [SECOND], encoding="thermal99")
    with pytest.raises(VssError, match=r"/camera/image_raw, image 0: encoding 'thermal99'"):
        open_source(path)


def test_depth_as_compressed_image_is_no_picture(tmp_path):
    path = record(tmp_path / "bag", [SECOND], topics=("/camera/depth/compressedDepth", "/camera/image_raw"))
    assert open_source(path).name.endswith("/camera/image_raw")


def test_street():
    scenes = pytest.importorskip("vss_ros.data.street.street")
    source = open_source("street:3", fps=15)
    assert (source.name, source.length, source.size, source.fps) == ("street:3", 300, (360, 480), 15)
    frames = source.frames()
    next(frames)
    rgb, stamp = next(frames)
    assert stamp == round(SECOND / 15)
    np.testing.assert_array_equal(rgb, scenes.Street(seed=3, size=(360, 480), fps=15).frame(1)[0])
    with pytest.raises(VssError, match="whole number"):
        open_source("street:x")
