"""The segment node as a user meets it: a process, topics, services, signals."""

from __future__ import annotations

import signal
import time

import cv2
import numpy as np
import pytest
from fixtures.ros import Client, Process, client, image, latest, stamped, start, values, wait
from vss_ros.config import IGNORE
from vss_ros.nodes.segment.inbox import Newest

pytestmark = pytest.mark.ros

# The network is replaced by one that answers 1 + (frame number modulo 5) after a while.
SLOW = """
import time
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.__call__
def slow(stream, rgb, stamp):
    time.sleep(0.2)
    return answer(stream, rgb, stamp)
constant.ConstantStream.__call__ = slow
"""
FAILING = """
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.__call__
def failing(stream, rgb, stamp):
    if int(stamp) % 2:
        raise RuntimeError("out of memory")
    return answer(stream, rgb, stamp)
constant.ConstantStream.__call__ = failing
"""


@pytest.fixture
def messages():
    """The message types of this file, imported only where rclpy is there."""
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from std_msgs.msg import String

    class Types:
        pass

    types = Types()
    types.Image, types.CompressedImage, types.CameraInfo = Image, CompressedImage, CameraInfo
    types.DiagnosticArray, types.String = DiagnosticArray, String
    return types


def constant(start, **parameters) -> Process:
    return start("segment", constant_network=True, autostart=True, **parameters)


def test_newest_keeps_only_the_last_message():
    slot = Newest()
    assert slot.put("a") is False
    assert slot.put("b") is True
    assert slot.take() == "b"
    slot.put("c")
    slot.close()
    assert slot.take() is None


def test_lifecycle_goes_up_and_down_and_up_again(start, client, messages):
    node = start("segment", constant_network=True)
    masks = client.collect(messages.Image, "/segment/mask")
    assert client.state() == "unconfigured"
    assert not client.change("activate"), "an invalid transition must be refused"
    assert client.state() == "unconfigured", "and must not end the node"
    for _ in range(2):
        assert client.change("configure") and client.state() == "inactive"
        assert client.change("activate") and client.state() == "active"
        before = len(masks)
        client.publish(image(np.zeros((48, 64, 3), np.uint8)))
        assert client.until(lambda n=before: len(masks) > n)
        assert client.change("deactivate") and client.state() == "inactive"
        assert client.change("cleanup") and client.state() == "unconfigured"
    assert client.change("unconfigured_shutdown") and client.state() == "finalized"
    assert node.stop() == 0
    assert "Traceback" not in node.text()


def test_mask_of_every_encoding_has_the_images_header_and_size(start, client, messages, rng):
    constant(start)
    masks = client.collect(messages.Image, "/segment/mask")
    colour = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    four = rng.integers(0, 256, (48, 64, 4), dtype=np.uint8)
    two = rng.integers(0, 256, (48, 64, 2), dtype=np.uint8)
    grey = rng.integers(0, 256, (48, 64), dtype=np.uint8)
    planes = rng.integers(0, 256, (72, 64), dtype=np.uint8)
    sent = [
        *(image(colour, name, padding=16) for name in ("rgb8", "bgr8")),
        *(image(four, name) for name in ("rgba8", "bgra8")),
        *(
            image(grey, name)
            for name in ("mono8", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")
        ),
        image(grey.astype(np.uint16) * 257, "mono16"),
        *(image(two, name) for name in ("yuv422", "yuv422_yuy2", "uyvy", "yuyv")),
    ]
    nv12 = image(planes, "nv12")
    nv12.height = 48
    sent.append(nv12)
    for number, message in enumerate(sent):
        stamped(message, 100 + number * 0.1, f"camera_{number}")
        client.publish(message)
        assert client.until(lambda n=number: len(masks) > n), f"no mask for {message.encoding}"
        mask = masks[-1]
        assert mask.header == message.header
        assert (mask.height, mask.width, mask.step, mask.encoding) == (48, 64, 64, "mono8")
        labels = np.frombuffer(mask.data, np.uint8).reshape(48, 64)
        assert np.array_equal(np.unique(labels), np.arange(8)), "eight stripes of the constant network"


def test_compressed_images_and_one_that_is_cut_short(start, client, messages, rng):
    node = constant(start, transport="compressed")
    masks = client.collect(messages.Image, "/segment/mask")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), (9, 9), 3)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    png = cv2.imencode(".png", pixels)[1].tobytes()
    broken = [jpeg[: len(jpeg) // 2], b"", b"not an image"]
    for number, content in enumerate(broken):
        client.publish(stamped(messages.CompressedImage(format="jpeg", data=content), 1 + number))
        assert client.until(lambda n=number: unusable(diagnostics) == n + 1)
    for number, content in enumerate([jpeg, png]):
        client.publish(stamped(messages.CompressedImage(format="", data=content), 10 + number))
        assert client.until(lambda n=number: len(masks) == n + 1)
    assert [m.header.stamp.sec for m in masks] == [10, 11]
    assert "cut short" in node.text() and "Traceback" not in node.text()


def test_bad_images_are_reported_and_the_node_lives_on(start, client, messages):
    node = constant(start)
    masks = client.collect(messages.Image, "/segment/mask")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    for number in range(3):
        client.publish(image(np.zeros((8, 8), np.uint8), "16UC7"))
        assert client.until(lambda n=number: unusable(diagnostics) == n + 1)
    zero = messages.Image(encoding="rgb8")
    short = image(np.zeros((8, 8, 3), np.uint8))
    short.data = short.data[:50]
    narrow = image(np.zeros((8, 8, 3), np.uint8))
    narrow.step = 8
    for number, message in enumerate((zero, short, narrow)):
        client.publish(message)
        assert client.until(lambda n=number: unusable(diagnostics) == n + 4)
    errors = [s for d in diagnostics for s in d.status if "input" in s.name and "16UC7" in s.message]
    assert errors and errors[-1].level == b"\x02"
    assert node.text().count("encoding '16UC7'") == 1, "an unknown encoding is refused once in the log"
    client.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=50.0))
    assert client.until(lambda: len(masks) == 1)
    assert "Traceback" not in node.text()


def test_a_slow_network_gets_the_newest_frame(start, client, messages):
    start("segment", patch=SLOW, constant_network=True, autostart=True)
    masks = client.collect(messages.Image, "/segment/mask")
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    arrivals = []
    for number in range(90):
        now = time.time()
        publisher.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=now, frame=str(number)))
        seen = len(masks)
        client.spin(1 / 30)
        arrivals += [(int(m.header.frame_id), time.time() - stamp_of(m)) for m in masks[seen:]]
    client.spin(1.0)
    numbers = [int(m.header.frame_id) for m in masks]
    assert numbers == sorted(set(numbers)), "in order, each once"
    assert numbers[-1] == 89, "the last frame is answered"
    assert 5 <= len(numbers) <= 30, "some 3 s of a network that needs 0.2 s"
    dropped = int(values(consistency[-1].status[0])["dropped"])
    assert dropped + len(numbers) <= 90
    assert dropped >= 40
    # A frame waits for at most one run of the network and has its own; twice that is left for a busy machine.
    assert np.median([late for _, late in arrivals]) < 0.8


def unusable(diagnostics) -> int:
    return int(values(latest(diagnostics, "input")).get("unusable", 0))


def stamp_of(message) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def test_no_frame_is_lost_while_the_network_keeps_up(start, client, messages):
    constant(start)
    masks = client.collect(messages.Image, "/segment/mask")
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    for number in range(30):
        publisher.publish(image(np.zeros((120, 160, 3), np.uint8), frame=str(number)))
        assert client.until(lambda n=number: len(masks) == n + 1)
    assert [int(m.header.frame_id) for m in masks] == list(range(30))


def test_stamps_at_zero_and_running_backwards(start, client, messages, tiny_card):
    node = start("segment", model=str(tiny_card), backend="torch", autostart=True, interval=10)
    masks = client.collect(messages.Image, "/segment/mask")
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    stamps = [0.0, 1000.0, 1000.1, 1000.2, 500.0, 500.1]
    for number, stamp in enumerate(stamps):
        client.publish(image(np.zeros((64, 96, 3), np.uint8), stamp=stamp))
        assert client.until(lambda n=number: len(consistency) == n + 1), node.text()
    seen = [values(m.status[0]) for m in consistency]
    assert len(masks) == len(stamps)
    assert "latency_ms" not in seen[0] and "latency_ms" in seen[1]
    assert [v["keyframe"] for v in seen] == ["1", "1", "0", "0", "1", "0"]
    assert "backwards" in seen[4]["reset"]
    assert [m.header.stamp.sec for m in consistency] == [int(s) for s in stamps]
    assert node.text().count("header.stamp at zero") == 1
    assert "starts anew: stamp ran backwards" in node.text()


def test_an_exception_in_the_network_costs_one_frame(start, client, messages):
    node = start("segment", patch=FAILING, constant_network=True, autostart=True)
    masks = client.collect(messages.Image, "/segment/mask")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    for stamp in (2.0, 3.0, 4.0):
        client.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=stamp))
        client.spin(0.2)
    assert client.until(lambda: [m.header.stamp.sec for m in masks] == [2, 4])
    assert client.until(lambda: values(latest(diagnostics, "network")).get("failed") == "1")
    levels = [s.level for d in diagnostics for s in d.status if "out of memory" in s.message]
    assert b"\x02" in levels
    assert "RuntimeError: out of memory" in node.text() and "Traceback" not in node.text()


def test_a_camera_that_stops_and_returns(start, client, messages):
    node = constant(start, image_timeout=1.0)
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert node.logged("no publisher on /image")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert node.logged("images arrive again")
    assert client.until(lambda: "stopped" in latest(diagnostics, "input").message)
    assert latest(diagnostics, "input").level == b"\x02"
    for _ in range(30):
        client.publish(image(np.zeros((8, 8, 3), np.uint8)))
        client.spin(0.1)
    assert client.until(lambda: latest(diagnostics, "input").level == b"\x00", 5.0)
    assert node.text().count("the camera on /image stopped") == 1


def test_the_cause_of_silence_is_named(start, client, messages):
    """Another type, another topic, another QoS, or nothing but large images."""
    client.publisher(messages.CompressedImage)
    client.publisher(messages.Image, "/front/image_raw")
    node = constant(start, image_timeout=0.5)
    assert node.logged("carries sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image")
    assert "transport:=compressed" in node.text()

    other = start(
        "segment", constant_network=True, autostart=True, image_timeout=0.5, remaps={"image": "/none"}
    )
    assert other.logged("no publisher on /none")
    assert "/front/image_raw" in other.text()

    strict = start(
        "segment",
        constant_network=True,
        autostart=True,
        image_timeout=0.5,
        remaps={"image": "/strict"},
        **{"qos_overrides./strict.subscription.reliability": "reliable"},
    )
    client.publisher(messages.Image, "/strict", best_effort=True)
    assert strict.logged("incompatible QoS on /strict")
    assert "qos_overrides./strict.subscription" in strict.text()

    quiet = start(
        "segment",
        constant_network=True,
        autostart=True,
        image_timeout=0.5,
        remaps={"image": "/front/image_raw"},
    )
    assert quiet.logged("FASTRTPS_DEFAULT_PROFILES_FILE")
    assert "config/fastdds.xml" in quiet.text()


def test_parameters_change_or_are_refused_with_the_fix(start, client, messages, tiny_card):
    node = start("segment", model=str(tiny_card), backend="torch", interval=2)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    assert client.set(interval=3) == ""
    assert client.set(model="other") == "", "structural options may change while unconfigured"
    assert client.set(model=str(tiny_card)) == ""
    assert client.change("configure") and client.change("activate"), node.text()
    assert "clean up first" in client.set(model="other")
    assert "clean up first" in client.set(backend="openvino")
    assert "one of every, fixed, adaptive" in client.set(policy="often")
    assert "max_interval" in client.set(min_interval=7)
    assert client.set(min_interval=7, max_interval=9) == ""
    assert client.set(interval=-1) != "", "below its range"
    assert "restart" in client.set(autostart=True)

    def keyframes(count: int) -> list[str]:
        first = len(consistency)
        for number in range(count):
            client.publish(image(np.zeros((64, 96, 3), np.uint8), stamp=10 + (first + number) * 0.1))
            assert client.until(lambda n=number: len(consistency) == first + n + 1), node.text()
        return [values(m.status[0])["keyframe"] for m in consistency[first:]]

    assert keyframes(6) == ["1", "0", "0", "1", "0", "0"]
    assert client.set(policy="every") == ""
    assert keyframes(3) == ["1"] * 3
    assert client.set(policy="fixed", interval=2) == ""
    assert keyframes(4).count("1") == 2


def test_descriptors_name_ranges_and_choices(start, client):
    from rcl_interfaces.srv import DescribeParameters

    start("segment", constant_network=True)
    request = DescribeParameters.Request(names=["interval", "threshold", "policy", "model"])
    interval, threshold, policy, model = client.call(
        DescribeParameters, "/segment/describe_parameters", request
    ).descriptors
    assert (interval.integer_range[0].from_value, interval.integer_range[0].to_value) == (0, 1000)
    assert threshold.floating_point_range[0].to_value == 10.0
    assert policy.additional_constraints == "one of: every, fixed, adaptive, consistency"
    assert "only while unconfigured" in model.description and "at any time" in interval.description


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"interval": -1}, "interval: expected int in [0, 1000], got -1"),
        ({"interval": "many"}, "interval: expected int in [0, 1000], got 'many'"),
        ({"policy": "often"}, "policy: expected one of every, fixed, adaptive, consistency; got 'often'"),
        ({"min_interval": 9}, "min_interval: expected at most max_interval"),
        ({"qos_overrides./image.subscription.depth": 0, "threshold": -1.0}, "threshold: expected float in"),
    ],
)
def test_a_wrong_start_value_ends_with_one_line(start, parameters, expected):
    node = start("segment", **parameters)
    assert node.child.wait(30) == 1
    assert expected in node.text()
    assert len(node.text().strip().splitlines()) == 1, node.text()


def test_an_unknown_parameter_name_is_pointed_out(start):
    node = start("segment", constant_network=True, intervall=3)
    assert node.logged("unknown parameter 'intervall' is ignored")


def test_a_failed_configure_can_be_repaired(start, client, messages, tiny_card, tmp_path):
    card, weights = tmp_path / "tiny.yaml", tmp_path / "tiny.safetensors"
    card.write_bytes(tiny_card.read_bytes())
    good = (tiny_card.parent / "tiny.safetensors").read_bytes()
    weights.write_bytes(good[:-4] + b"oops")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    node = start("segment", model="no_such_model", backend="torch")
    assert not client.change("configure")
    assert client.state() == "unconfigured"
    assert "model 'no_such_model': expected" in node.text()
    assert client.set(model=str(card)) == ""
    assert not client.change("configure")
    assert "expected sha256" in node.text()
    assert client.until(lambda: "sha256" in latest(diagnostics, "lifecycle").message)
    assert latest(diagnostics, "lifecycle").level == b"\x02"
    weights.write_bytes(good)
    assert client.change("configure") and client.change("activate"), node.text()
    masks = client.collect(messages.Image, "/segment/mask")
    client.publish(image(np.zeros((64, 96, 3), np.uint8)))
    assert client.until(lambda: len(masks) == 1)
    assert "Traceback" not in node.text()


def test_autostart_with_a_wrong_model_stays_and_says_why(start, client):
    node = start("segment", model="no_such_model", autostart=True)
    assert node.logged("model 'no_such_model'")
    assert client.state() == "unconfigured"
    assert node.stop(signal.SIGTERM) == 0


def test_pictures_cost_nothing_without_a_subscriber(start, client, messages):
    broken = """
from vss_ros.nodes.segment import constant
from vss_ros.nodes import messages
from vss_ros.nodes.segment import node as segment
def unwanted(*_):
    raise RuntimeError("computed without a subscriber")
segment.overlay = segment.colorize = segment.heat = messages.to_png = unwanted
constant.ConstantResult.confidence = unwanted
"""
    node = start("segment", patch=broken, constant_network=True, autostart=True)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert client.until(lambda: len(consistency) == 1), node.text()
    assert "computed without" not in node.text()


def test_pictures_for_subscribers(start, client, messages):
    constant(start, overlay_alpha=1.0)
    confidence = client.collect(messages.Image, "/segment/confidence")
    colour = client.collect(messages.Image, "/segment/color_mask")
    overlay = client.collect(messages.Image, "/segment/overlay")
    pixels = np.full((16, 8, 3), 9, np.uint8)
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    for number in range(50):  # the node may not know its subscribers with the first frame
        publisher.publish(image(pixels, stamp=1 + number * 0.1))
        if client.until(lambda: confidence and colour and overlay, 0.2):
            break
    assert (confidence[0].encoding, confidence[0].step) == ("mono8", 8)
    assert (colour[0].encoding, colour[0].step) == ("rgb8", 24)
    assert np.frombuffer(colour[0].data, np.uint8)[:3].tolist() == [0, 255, 128], "colour of class 0"
    assert overlay[-1].data == colour[-1].data, "an opaque overlay is the colour mask"


def test_camera_info_accompanies_each_mask(start, client, messages):
    constant(start)
    out = client.collect(messages.CameraInfo, "/segment/camera_info")
    info = messages.CameraInfo(
        width=128, height=96, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0]
    )
    info.k = np.array([100.0, 0, 64, 0, 110, 48, 0, 0, 1])
    client.publish(stamped(info, 3.0, "other"), "/camera_info")
    client.spin(0.3)
    message = image(np.zeros((48, 64, 3), np.uint8), stamp=7.5)
    client.publish(message)
    assert client.until(lambda: len(out) == 1)
    assert out[0].header == message.header
    assert (out[0].width, out[0].height) == (64, 48)
    assert out[0].k.tolist() == [50, 0, 32, 0, 55, 24, 0, 0, 1]
    assert list(out[0].d) == list(info.d)


def test_undistort_publishes_rectified_masks_and_their_camera_info(start, client, messages):
    node = constant(start, undistort=True)
    masks = client.collect(messages.Image, "/segment/mask")
    infos = client.collect(messages.CameraInfo, "/segment/camera_info")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=1.0))
    assert client.until(lambda: unusable(diagnostics) == 1), "without a calibration there is nothing to go by"
    info = messages.CameraInfo(
        width=64, height=48, distortion_model="plumb_bob", d=[-0.05, 0.0, 0.0, 0.0, 0.0]
    )
    info.k = np.array([40.0, 0, 31.5, 0, 40, 23.5, 0, 0, 1])
    info.r = np.eye(3).ravel()
    info.p = np.array([20.0, 0, 31.5, 0, 0, 20, 23.5, 0, 0, 0, 1, 0])  # twice the view of the camera
    client.publish(info, "/camera_info")
    client.spin(0.3)
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=1.5))
    assert client.until(lambda: masks and infos)
    labels = np.frombuffer(masks[-1].data, np.uint8).reshape(48, 64)
    assert (labels[:6] == IGNORE).all() and (labels[16:32, 20:44] < 8).all()
    assert infos[-1].header == masks[-1].header
    assert infos[-1].k.tolist() == [20, 0, 31.5, 0, 20, 23.5, 0, 0, 1] and not any(infos[-1].d)
    assert infos[-1].p.tolist() == info.p.tolist()
    info.width = 128  # a calibration that does not fit the images
    client.publish(info, "/camera_info")
    client.spin(0.3)
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=2.0))
    assert client.until(lambda: "size 128x48, got 64x48" in latest(diagnostics, "input").message)
    assert "no camera_info came yet" in node.text() and "Traceback" not in node.text()


def test_labels_are_latched(start, client, messages):
    import json

    constant(start)
    assert client.active()
    late = client.collect(messages.String, "/segment/label_info_json", latched=True)
    assert client.until(lambda: late)
    content = json.loads(late[0].data)
    assert content["unlabelled"] == IGNORE
    assert content["classes"][1] == {"id": 1, "name": "stripe_1", "color": [32, 223, 128]}


def test_diagnostics_come_once_a_second_with_name_and_hardware(start, client, messages):
    start(
        "segment",
        constant_network=True,
        autostart=True,
        remaps={"image": "/camera/image_raw", "__ns": "/front"},
    )
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert client.until(lambda: len(diagnostics) >= 4)
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in diagnostics]
    assert np.median(np.diff(stamps)) == pytest.approx(1.0, abs=0.2)
    names = {s.name for s in diagnostics[-1].status}
    assert names == {f"front/segment: {part}" for part in ("lifecycle", "input", "network", "consistency")}
    assert {s.hardware_id for s in diagnostics[-1].status} == {"/camera/image_raw"}


def test_compressed_images_beside_raw_ones_as_image_transport_publishes_them(start, client, messages):
    constant(start, transport="compressed")
    masks = client.collect(messages.Image, "/segment/mask")
    client.publisher(messages.Image)
    content = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    message = stamped(messages.CompressedImage(format="png", data=content), 5.0)
    client.publish(message, "/image/compressed")
    assert client.until(lambda: len(masks) == 1)
    assert masks[0].header == message.header


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 2.0])
def test_a_signal_at_any_moment_ends_it_cleanly(start, number, after):
    node = constant(start)
    assert wait(node.awaits_signals)
    time.sleep(after)
    assert node.stop(number) == 0
    assert "Traceback" not in node.text() and "Error" not in node.text(), node.text()


def test_a_signal_while_a_model_is_prepared(start):
    hanging = """
import time
from vss_ros.nodes.segment import network as start
def make_stream(config):
    print("preparing", flush=True)
    time.sleep(120)
start.make_stream = make_stream
"""
    node = start("segment", patch=hanging, autostart=True)
    assert node.logged("preparing")
    assert node.stop() == 0
    assert "Traceback" not in node.text()


def test_a_signal_while_a_frame_is_computed(start, client, messages):
    node = start("segment", patch=SLOW, constant_network=True, autostart=True)
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    for _ in range(10):
        publisher.publish(image(np.zeros((8, 8, 3), np.uint8)))
        client.spin(0.03)
    assert node.stop() == 0
    assert "Traceback" not in node.text()


@pytest.mark.slow
def test_memory_stays_flat_over_five_thousand_frames(start, client, messages):
    psutil = pytest.importorskip("psutil")
    node = constant(start)
    masks = client.collect(messages.Image, "/segment/mask", depth=5)
    message = image(np.zeros((120, 160, 3), np.uint8))
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    process = psutil.Process(node.child.pid)
    after: list[int] = []
    for number in range(5500):
        publisher.publish(stamped(message, 1 + number * 0.03))
        assert client.until(lambda: masks, 10.0)
        masks.clear()
        if number % 500 == 499:
            after.append(process.memory_info().rss)
    growth = (after[-1] - after[0]) / 2**20  # the first 500 frames are the warm-up
    assert growth < 20, f"{growth:.1f} MB in 5,000 frames: {after}"
