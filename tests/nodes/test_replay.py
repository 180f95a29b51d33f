"""The `replay` node in a process of its own, heard by another one."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from fixtures.bags import START, STEP, image, write_mcap
from vss_ros.media.bags import BagWriter, typestore
from vss_ros.media.decode import decode_compressed

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

# argv: output file, number of frames, message type, topic, reliability. Prints "ready" once it listens.
LISTENER = """
import sys, time
import numpy as np, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
out, count, kind, topic, reliability = sys.argv[1:]
rclpy.init()
node = rclpy.create_node("listener")
qos = QoSProfile(depth=200, reliability=getattr(ReliabilityPolicy, reliability))
images, infos = [], []
node.create_subscription({"raw": Image, "compressed": CompressedImage}[kind], topic, images.append, qos)
node.create_subscription(CameraInfo, "camera_info", infos.append, qos)
print("ready", flush=True)
deadline = time.monotonic() + 20
while (len(images) < int(count) or len(infos) < int(count)) and time.monotonic() < deadline:
    rclpy.spin_once(node, timeout_sec=0.1)
until = time.monotonic() + 0.3  # nothing may follow
while time.monotonic() < until:
    rclpy.spin_once(node, timeout_sec=0.1)
nanoseconds = lambda m: m.header.stamp.sec * 10**9 + m.header.stamp.nanosec
np.savez(
    out,
    data=np.array([bytes(m.data) for m in images], object),
    stamps=[nanoseconds(m) for m in images],
    info_stamps=[nanoseconds(m) for m in infos],
    frames={m.header.frame_id for m in images + infos},
    layout={(m.height, m.width, m.encoding, m.step) for m in images} if kind == "raw" else {m.format for m in images},
    infos={(m.width, m.height, m.distortion_model, tuple(m.d), tuple(m.k), tuple(m.p)) for m in infos},
)
"""
REPLAY = "from vss_ros.nodes.run import replay; raise SystemExit(replay())"


@pytest.fixture
def environment():
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_PYTHON_CHECK_FIELDS": "1",
    }


@contextmanager
def process(environment, *command):
    """A Python process that is gone at the end of the block."""
    child = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def options(remap=(), **parameters):
    rules = [word for rule in remap for word in ("-r", rule)]
    return [
        "-c",
        REPLAY,
        "--ros-args",
        *rules,
        *(w for k, v in parameters.items() for w in ("-p", f"{k}:={v}")),
    ]


def play(
    environment, out, count, *, kind="raw", topic="image", reliability="RELIABLE", remap=(), **parameters
):
    """What a listener hears of replay, as the arrays of LISTENER's file; and replay's output."""
    with process(environment, "-c", LISTENER, str(out), str(count), kind, topic, reliability) as listener:
        assert listener.stdout.readline() == "ready\n", listener.stderr.read()
        with process(environment, *options(remap, wait_for_subscriber=10.0, **parameters)) as replay:
            _, output = replay.communicate(timeout=60)
            assert replay.returncode == 0, output
        assert listener.wait(40) == 0, listener.stderr.read()
    with np.load(out, allow_pickle=True) as file:
        return {name: file[name][()] if file[name].shape == () else file[name] for name in file}, output


def pixels(data):
    return np.frombuffer(data, np.uint8).reshape(120, 160, 3)


@pytest.fixture
def pictures(tmp_path):
    """Ten noisy 160x120 PNG files and their pixels."""
    folder = tmp_path / "frames"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (10, 120, 160, 3), np.uint8)
    for index, rgb in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), rgb[..., ::-1])
    return folder, frames


def test_every_frame_arrives_pixel_by_pixel(environment, pictures, tmp_path):
    folder, frames = pictures
    before = time.time_ns()
    heard, output = play(environment, tmp_path / "out.npz", 10, source=folder, rate=0.5, frame_id="front")
    assert len(heard["data"]) == 10
    for data, rgb in zip(heard["data"], frames, strict=True):
        np.testing.assert_array_equal(pixels(data), rgb)
    assert heard["layout"] == {(120, 160, "rgb8", 480)}
    assert heard["frames"] == {"front"}
    stamps = heard["stamps"]
    assert (np.diff(stamps) > 0).all()
    assert before < stamps[0] and stamps[-1] < time.time_ns(), "stamps are the time of publication"
    assert stamps[-1] - stamps[0] > 0.9 * 9 / 15 * 1e9, "half speed: no frame comes before its time"
    np.testing.assert_array_equal(heard["info_stamps"], stamps)
    assert heard["infos"] == {(160, 120, "", (), (0.0,) * 9, (0.0,) * 12)}, "uncalibrated"
    assert "published 10 frames" in output


def test_a_recording_keeps_its_stamps_and_calibration(environment, tmp_path):
    types = typestore().types
    stamps = [1_700_000_000_123_456_789 + index * 33_333_333 for index in range(6)]
    k, p = np.array([50.0, 0, 40, 0, 51, 30, 0, 0, 1]), np.arange(12.0)
    with BagWriter(tmp_path / "bag") as bag:
        for index, stamp in enumerate(stamps):
            header = types["std_msgs/msg/Header"](
                types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), "bag"
            )
            pixels = np.full(60 * 80, index, np.uint8)
            image = types["sensor_msgs/msg/Image"](header, 60, 80, "mono8", 0, 80, pixels)
            roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            info = types["sensor_msgs/msg/CameraInfo"](
                header, 60, 80, "plumb_bob", np.array([0.5]), k, np.eye(3).ravel(), p, 0, 0, roi
            )
            bag.write("/camera/image_raw", "sensor_msgs/msg/Image", image, stamp)
            bag.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", info, stamp)
    heard, _ = play(environment, tmp_path / "out.npz", 6, source=tmp_path / "bag", stamps="source")
    assert heard["stamps"].tolist() == stamps
    assert [int(data[0]) for data in heard["data"]] == [0, 1, 2, 3, 4, 5]
    assert heard["infos"] == {(80, 60, "plumb_bob", (0.5,), tuple(k), tuple(p))}


def test_compressed_follows_the_remapped_name(environment, tmp_path):
    y, x = np.mgrid[0:120, 0:160]
    rgb = np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "smooth.png"), rgb[..., ::-1])
    heard, _ = play(
        environment,
        tmp_path / "out.npz",
        3,
        kind="compressed",
        topic="/front/rgb/compressed",
        remap=["image:=/front/rgb"],
        source=tmp_path / "smooth.png",
        transport="compressed",
        loop=True,
        max_frames=3,
    )
    assert heard["layout"] == {"jpeg"}
    assert len(heard["data"]) == 3
    assert np.abs(decode_compressed(heard["data"][0]).astype(int) - rgb).max() < 12


@pytest.mark.parametrize("reliable", [True, False])
def test_a_best_effort_listener_is_served(environment, pictures, tmp_path, reliable):
    folder, frames = pictures
    heard, _ = play(
        environment, tmp_path / "out.npz", 10, reliability="BEST_EFFORT", source=folder, reliable=reliable
    )
    assert len(heard["data"]) == 10
    np.testing.assert_array_equal(pixels(heard["data"][-1]), frames[-1])


def test_looping_begins_again(environment, pictures, tmp_path):
    folder, frames = pictures
    heard, _ = play(environment, tmp_path / "out.npz", 13, source=folder, loop=True, max_frames=13, fps=120.0)
    assert len(heard["data"]) == 13
    np.testing.assert_array_equal(pixels(heard["data"][12]), frames[2])
    assert (np.diff(heard["stamps"]) > 0).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(environment, pictures, number):
    with process(environment, *options(source=pictures[0], loop=True)) as replay:
        time.sleep(2.0)
        assert replay.poll() is None
        replay.send_signal(number)
        _, output = replay.communicate(timeout=15)
    assert replay.returncode == 0, output
    assert "Traceback" not in output


def test_a_signal_while_waiting_for_a_subscriber(environment, pictures):
    with process(environment, *options(source=pictures[0], wait_for_subscriber=600.0)) as replay:
        time.sleep(1.5)
        replay.send_signal(signal.SIGINT)
        _, output = replay.communicate(timeout=15)
    assert replay.returncode == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "source: expected a video"),
        ({"source": "/no/such/clip.mp4"}, "no such file"),
        ({"source": "{folder}/notes.mp4"}, r"notes.mp4: expected a video"),
        ({"source": "{folder}", "rate": -1.0}, "rate: expected float"),
        ({"source": "{folder}", "stamps": "never"}, "stamps: expected one of now, source"),
        ({"source": "{folder}", "camera_info_url": "/none.yaml"}, "expected the YAML of camera_calibration"),
    ],
)
def test_a_mistake_costs_one_line_and_exit_code_1(environment, pictures, parameters, message):
    (pictures[0] / "notes.mp4").write_bytes(b"these are no pictures" * 100)
    parameters = {key: str(value).format(folder=pictures[0]) for key, value in parameters.items()}
    with process(environment, *options(**parameters)) as replay:
        output, errors = replay.communicate(timeout=30)
    assert replay.returncode == 1, errors
    [line] = (output + errors).splitlines()
    assert message in line


def test_one_damaged_image_is_left_out_and_counted(environment, pictures):
    folder, _ = pictures
    data = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(data[: len(data) // 2])
    with process(environment, *options(source=folder, rate=0.0)) as replay:
        _, errors = replay.communicate(timeout=30)
    assert replay.returncode == 0
    assert "published 9 frames" in errors and "1 of 10 images do not decode" in errors and "4.png" in errors


def test_a_clock_that_was_set_does_not_stop_it(environment, tmp_path):
    """Five frames with stamps since boot, five with UTC, recorded at a steady 10 Hz."""
    stamps = [5 * 10**9 + i * STEP if i < 5 else START + i * STEP for i in range(10)]
    write_mcap(tmp_path / "a.mcap", [image(i, stamp_ns=stamp) for i, stamp in enumerate(stamps)])
    with process(environment, *options(source=tmp_path / "a.mcap")) as replay:
        _, errors = replay.communicate(timeout=30)
    assert replay.returncode == 0 and "header stamps jump" in errors
    assert 0.8 < float(re.search(r"published 10 frames .* in ([0-9.]+) s", errors)[1]) < 2.5


def test_a_calibration_of_another_size_is_refused(environment, pictures, tmp_path):
    calibration = tmp_path / "front.yaml"
    calibration.write_text(
        "{image_width: 640, image_height: 480, distortion_model: plumb_bob, camera_matrix: {data: [1,0,0,0,1,0,0,0,1]},"
        "distortion_coefficients: {data: [0,0,0,0,0]}, rectification_matrix: {data: [1,0,0,0,1,0,0,0,1]},"
        "projection_matrix: {data: [1,0,0,0,0,1,0,0,0,0,1,0]}}"
    )
    with process(environment, *options(source=pictures[0], camera_info_url=calibration)) as replay:
        _, errors = replay.communicate(timeout=30)
    assert replay.returncode == 1
    assert "expected a calibration for 160x120, got one for 640x480" in errors
