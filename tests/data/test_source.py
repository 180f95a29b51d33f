"""Every kind of source, whole and damaged."""

import logging
from fractions import Fraction

import cv2
import numpy as np
import pytest
from fixtures.bags import START, STEP, image, write_mcap, write_ros1
from fixtures.paths import find_data
from vss_ros.config import VssError
from vss_ros.data.camera import cameras
from vss_ros.data.source import open_source
from vss_ros.media.bags import COMPRESSED, IMAGE, PACKET, BagReader, BagWriter, typestore


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
def test_a_damaged_image_is_left_out_and_named(folder, name, caplog):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    source = open_source(folder)
    frames, stamps = frames_of(source)
    number = int(name[6])
    assert [int(rgb[5, 5, 0]) for rgb in frames] == [i for i in range(12) if i != number]
    np.testing.assert_allclose(stamps, np.delete(np.arange(12) / 30, number), atol=1e-8)
    assert caplog.text.count("1 of 12 images do not decode and are left out") == 1 and name in caplog.text
    for path in folder.glob("frame_*.png"):
        path.write_bytes(b"")
    with pytest.raises(VssError, match=r"frame_0\.png"):
        open_source(folder)


def test_images_and_videos_that_are_too_large_are_refused(folder, video):
    assert open_source(folder, max_pixels=24 * 32).size == (24, 32)
    for path in (folder, folder / "frame_0.png", video):
        with pytest.raises(VssError, match="raise max_pixels"):
            open_source(path, max_pixels=24 * 32 - 1)


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
        ([0, 0, 0], [1000, 1001, 1002], "header stamps are zero"),
        ([50, 51, 50, 51], [50, 51, 52, 53], "not increasing"),
        ([50, 51, 51, 60], [50, 51, 52, 53], "not increasing"),
        ([5, 6, 1_700_000_000, 1_700_000_001], [5, 6, 7, 8], "jump by 1699999993 s"),
        ([50, 51, 20, 21], [50, 51, 52, 53], "not increasing"),
    ],
)
def test_unusable_header_stamps(tmp_path, caplog, headers, expected, reason):
    path = record(tmp_path / "bag", [stamp * SECOND for stamp in headers])
    with caplog.at_level(logging.WARNING):
        _, stamps = frames_of(open_source(path))
    assert stamps == expected
    assert caplog.text.count(f"{reason}; times of recording are used instead") == 1


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


def test_a_bag_of_ros1(tmp_path):
    source = open_source(write_ros1(tmp_path / "a.bag"))
    assert (source.length, source.size, source.fps) == (5, (6, 8), pytest.approx(10))
    assert [stamp for _, stamp in source.frames()] == [START + index * STEP for index in range(5)]


def test_one_empty_and_one_cut_image_are_left_out(tmp_path, caplog):
    images = [image(index) for index in range(6)]
    images[2].height = images[2].width = images[2].step = 0
    images[4].data = images[4].data[:-1]
    source = open_source(write_mcap(tmp_path / "a.mcap", images))
    for _ in range(2):
        assert [int(rgb[0, 0, 0]) for rgb, _ in source] == [0, 1, 3, 5]
    assert caplog.text.count("2 of 6 images do not decode and are left out; image 2: image of 0x0") == 1


def test_the_base_topic_stands_for_its_compressed_one(tmp_path):
    bag = find_data("bags") / "derived_colour_sqlite3"
    assert open_source(bag).length == 20, "the camera's topic with the most images"
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        for index in range(3):
            data = np.frombuffer(cv2.imencode(".png", flat(index))[1].tobytes(), np.uint8)
            message = typestore().types[COMPRESSED](image(index).header, "png", data)
            bag.write("/front/image_raw/compressed", COMPRESSED, message, index)
    for topic in (None, "/front/image_raw", "/front/image_raw/compressed"):
        assert open_source(path, topic).length == 3
    with pytest.raises(
        VssError, match="no images on '/front/image'; expected one of /front/image_raw/compressed"
    ):
        open_source(path, "/front/image")


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["/a/image_raw", "/b/image_raw"], ["/a/image_raw", "/b/image_raw"]),
        (["/a/image_raw", "/segmentation/mask", "/segmentation/label_info_json"], ["/a/image_raw"]),
        (["/a/image_raw", "/a/depth:16UC1", "/a/far:32FC1"], ["/a/image_raw"]),
        (["/a/depth:16UC1"], ["/a/depth"]),
    ],
)
def test_the_cameras_of_a_recording(tmp_path, topics, expected):
    with BagWriter(tmp_path / "bag") as bag:
        for topic in topics:
            name, _, encoding = topic.partition(":")
            bag.write(name, IMAGE, image(0, encoding or "mono8"), 1)
    with BagReader(tmp_path / "bag") as bag:
        assert cameras(bag) == expected


@pytest.mark.parametrize(("encoder", "name"), [("libx264", "libx264"), ("libx265", "hevc;bgr8;bgr8;nv12")])
def test_packets_of_ffmpeg_image_transport(tmp_path, encoder, name, caplog):
    av = pytest.importorskip("av")
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base = Fraction(1, 10)
    context.options = {"x265-params": "log-level=none"}  # with B-frames, whose packets are out of order
    packets = []
    for index in range(12):
        frame = av.VideoFrame.from_ndarray(flat(20 * index, 48, 64), format="rgb24")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    make = typestore().types[PACKET]
    with BagWriter(tmp_path / "bag") as bag:
        for packet in packets:
            data = np.frombuffer(bytes(packet), np.uint8)
            message = make(image(packet.pts).header, 64, 48, name, packet.pts, 1, False, data)
            bag.write("/front/image_raw/ffmpeg", PACKET, message, START + packet.dts * STEP + 10**9)
    source = open_source(tmp_path / "bag", "/front/image_raw")
    frames, _ = frames_of(source)
    assert [round(rgb.mean() / 20) for rgb in frames] == list(range(12))
    with BagWriter(tmp_path / "late") as bag:  # begins within a group of pictures
        for packet in packets[3:]:
            data = np.frombuffer(bytes(packet), np.uint8)
            message = make(image(packet.pts).header, 64, 48, name, packet.pts, 0, False, data)
            bag.write("/front/image_raw/ffmpeg", PACKET, message, START + packet.dts * STEP + 10**9)
    with pytest.raises(VssError, match=r"does not decode|at least one image"):
        open_source(tmp_path / "late")


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
