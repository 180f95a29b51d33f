"""The cameras of recordings: topics, clocks, packets, what does not decode."""

import logging
from fractions import Fraction

import cv2
import numpy as np
import pytest
from fixtures.bags import START, STEP, image, write_mcap, write_ros1
from fixtures.paths import find_data
from vss_ros.config import VssError
from vss_ros.data.camera import ANSWERS, cameras
from vss_ros.data.source import open_source
from vss_ros.media.bags import COMPRESSED, IMAGE, PACKET, BagReader, BagWriter, typestore


def frames_of(source):
    frames = list(source)
    return [rgb for rgb, _ in frames], [stamp for _, stamp in frames]


def flat(value, height=24, width=32):
    return np.full((height, width, 3), value, np.uint8)


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
        (["/a/image_raw", "/segmentation/image", "/segmentation/label_info_json"], ["/a/image_raw"]),
        (
            ["/a/image_raw", *(f"/s/front/{name}" for name in ANSWERS), "/s/overlay/compressed"],
            ["/a/image_raw"],
        ),
        (["/a/image_raw", "/a/depth:16UC1", "/a/far:32FC1"], ["/a/image_raw"]),
        (["/a/depth:16UC1"], ["/a/depth"]),
    ],
)
def test_the_cameras_of_a_recording(tmp_path, topics, expected):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, topics)
    with BagReader(tmp_path / "bag") as bag:
        assert cameras(bag) == expected


def write_images(bag, topics):
    for topic in topics:
        name, _, encoding = topic.partition(":")
        if name.endswith("/compressed"):
            png = np.frombuffer(cv2.imencode(".png", flat(0))[1].tobytes(), np.uint8)
            bag.write(name, COMPRESSED, typestore().types[COMPRESSED](image(0).header, "png", png), 1)
        else:
            bag.write(name, IMAGE, image(0, encoding or "mono8"), 1)


@pytest.mark.parametrize("topics", [["/s/mask", "/s/overlay/compressed"], ["/s/image", "/s/label_info_json"]])
def test_a_recording_of_answers_alone_has_no_camera(tmp_path, topics):
    """What `vss demo` and the recorder write."""
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, topics)
    with pytest.raises(VssError, match=f"no camera, only answers .*{topics[0]}.*name one of these as topic"):
        open_source(tmp_path / "bag")
    assert open_source(tmp_path / "bag", topics[0]).length == 1


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
