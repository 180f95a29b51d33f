"""Conversions of camera messages, by hand-made pixels and by OpenCV's own converters."""

import signal
import sys
from array import array

import cv2
import numpy as np
import pytest
from vss_ros.media import decode as images
from vss_ros.media.decode import (
    ImageError,
    UnknownEncoding,
    decode_compressed,
    to_rgb,
)

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10


def smooth(height=24, width=32):
    """An RGB picture without sharp edges, so that shared colours and JPEG change it little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + 3 * x, 200 - 4 * y, 90 + 2 * x + y], axis=2).astype(np.uint8)


def padded(rows, padding):
    """(H, row) bytes with `padding` bytes of rubbish behind each row, as (bytes, step)."""
    rows = rows.reshape(rows.shape[0], -1)
    rubbish = np.full((rows.shape[0], padding), 0xAB, np.uint8)
    return np.concatenate([rows, rubbish], axis=1).tobytes(), rows.shape[1] + padding


CASES = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": np.dstack([RGB, np.full((2, 3), 7, np.uint8)]),
    "bgra8": np.dstack([RGB[..., ::-1], np.full((2, 3), 7, np.uint8)]),
    "8UC3": RGB[..., ::-1],
    "8UC4": np.dstack([RGB[..., ::-1], np.full((2, 3), 7, np.uint8)]),
}


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", CASES)
def test_channel_orders_and_padded_rows(encoding, padding):
    data, step = padded(CASES[encoding], padding)
    rgb = to_rgb(data, 2, 3, encoding, step)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(encoding):
    data, step = padded(RGB[..., 0], 3)
    np.testing.assert_array_equal(to_rgb(data, 2, 3, encoding, step), RGB[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(("order", "is_bigendian"), [("<u2", False), (">u2", True)])
def test_mono16_keeps_the_upper_byte(order, is_bigendian):
    values = np.array([[0, 255, 256], [0x1234, 0x8000, 65535]], order)
    data, step = padded(values.view(np.uint8), 4)
    rgb = to_rgb(data, 2, 3, "mono16", step, is_bigendian)
    np.testing.assert_array_equal(rgb[..., 1], [[0, 0, 1], [0x12, 0x80, 255]])
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])


def test_rgb8_is_a_view_of_the_message():
    data = array("B", RGB.tobytes())
    assert np.shares_memory(to_rgb(data, 2, 3, "rgb8", 9), np.frombuffer(data, np.uint8))
    rows, step = padded(RGB, 2)
    assert np.shares_memory(to_rgb(rows, 2, 3, "rgb8", step), np.frombuffer(rows, np.uint8))


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_yuv422_by_hand(encoding, order):
    # BT.601, limited range: black, white, and the bars' red (Y 81, U 90, V 240).
    pairs = {"y0": [16, 235, 81], "y1": [16, 235, 81], "u": [128, 128, 90], "v": [128, 128, 240]}
    names = ["u", "y0", "v", "y1"] if order == "uyvy" else ["y0", "u", "y1", "v"]
    row = np.stack([np.array(pairs[name], np.uint8) for name in names], axis=1).reshape(1, -1)
    data, step = padded(row, 2)
    rgb = to_rgb(data, 1, 6, encoding, step).astype(int)
    expected = np.array([[0] * 3] * 2 + [[255] * 3] * 2 + [[254, 0, 0]] * 2)
    assert np.abs(rgb[0] - expected).max() <= 2


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_two_plane_yuv_against_opencv(encoding):
    picture = smooth()
    planar = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
    u, v = planar[24:30].reshape(12, 16), planar[30:36].reshape(12, 16)
    colours = np.stack([u, v] if encoding == "nv12" else [v, u], axis=2).reshape(12, 32)
    data, step = padded(np.concatenate([planar[:24], colours]), 6)
    rgb = to_rgb(data, 24, 32, encoding, step)
    assert np.abs(rgb.astype(int) - picture).max() <= 6
    np.testing.assert_array_equal(rgb, cv2.cvtColor(planar, cv2.COLOR_YUV2RGB_I420))


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_bayer_names_follow_ros_not_opencv(encoding):
    picture = np.empty((8, 10, 3), np.uint8)
    picture[:] = (200, 120, 40)
    mosaic = np.empty((8, 10), np.uint8)
    for index, letter in enumerate(encoding[6:10]):  # the name spells the upper left 2x2 pixels
        row, column = divmod(index, 2)
        mosaic[row::2, column::2] = picture[row::2, column::2, "rgb".index(letter)]
    data, step = padded(mosaic, 3)
    np.testing.assert_array_equal(to_rgb(data, 8, 10, encoding, step), picture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"", 0, 4, "rgb8", 12), "4x0 pixels"),
        ((b"", 4, 0, "mono8", 0), "0x4 pixels"),
        ((bytes(11), 1, 4, "rgb8", 12), "expected 12 bytes .* got 11"),
        ((b"", 1, 4, "rgb8", 12), "got 0"),
        ((bytes(24), 2, 4, "rgb8", 11), "step of at least 12"),
        ((bytes(24), 2, 4, "bgr8", 0), "step of at least 12"),
        ((bytes(7), 2, 2, "mono16", 4), "expected 8 bytes"),
        ((bytes(64), 2, 3, "yuv422", 6), "even width"),
        ((bytes(64), 3, 4, "nv12", 4), "even sizes"),
        ((bytes(23), 4, 4, "nv12", 4), "expected 24 bytes"),
        ((bytes(4), 2, 2, "bayer_rggb8", 2), "3x3"),
        ((bytes(3), 2, 2, "8UC1", 2), "expected 4 bytes"),
    ],
)
def test_sizes_that_disagree_are_refused(arguments, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(*arguments)


@pytest.fixture
def fake_cv_bridge(tmp_path, monkeypatch):
    """Installs a package cv_bridge with that body of imgmsg_to_cv2, here and for child processes."""

    def install(body):
        package = tmp_path / "cv_bridge"
        package.mkdir()
        (package / "__init__.py").write_text(
            "import os, signal, time\nimport numpy as np\n"
            f"class CvBridge:\n    def imgmsg_to_cv2(self, image, wanted):\n        {body}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        sys.modules.pop("cv_bridge", None)
        images.cv_bridge_is_sound.cache_clear()

    yield install
    sys.modules.pop("cv_bridge", None)
    images.cv_bridge_is_sound.cache_clear()


def test_unknown_encoding_lists_the_known_ones(monkeypatch):
    monkeypatch.setattr(images, "cv_bridge_is_sound", lambda: False)
    with pytest.raises(UnknownEncoding, match=r"'32FC1'.*rgb8.*bayer_grbg8"):
        to_rgb(bytes(16), 2, 2, "32FC1", 8)


def test_a_sound_cv_bridge_takes_the_rest(fake_cv_bridge):
    fake_cv_bridge("return np.full((image.height, image.width, 3), 5, np.uint8)")
    np.testing.assert_array_equal(to_rgb(bytes(24), 2, 2, "64FC9", 12), np.full((2, 2, 3), 5, np.uint8))
    with pytest.raises(ImageError, match="expected 24 bytes"):
        to_rgb(bytes(23), 2, 2, "64FC9", 12)


def test_an_encoding_cv_bridge_refuses(fake_cv_bridge):
    fake_cv_bridge(
        "assert image.encoding == 'rgb16', 'not a colour'\n"
        "        return np.zeros((image.height, image.width, 3), np.uint8)"
    )
    with pytest.raises(UnknownEncoding, match="not a colour"):
        to_rgb(bytes(24), 2, 2, "64FC9", 12)


@pytest.mark.parametrize(
    "body", [f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", "raise ImportError('numpy')"]
)
def test_a_crashing_cv_bridge_does_not_crash_us(fake_cv_bridge, body):
    fake_cv_bridge(body)
    assert not images.cv_bridge_is_sound()
    with pytest.raises(UnknownEncoding, match="install a cv_bridge"):
        to_rgb(bytes(24), 2, 2, "64FC9", 12)


def test_a_hanging_cv_bridge_is_given_up(fake_cv_bridge):
    fake_cv_bridge("time.sleep(60)")
    assert not images.cv_bridge_is_sound(timeout=0.5)


def encode(extension, picture, *options):
    return cv2.imencode(extension, picture, list(options))[1].tobytes()


def test_png_is_exact_in_colour_grey_alpha_and_16_bit():
    bgr = RGB[..., ::-1]
    np.testing.assert_array_equal(decode_compressed(encode(".png", bgr), "png"), RGB)
    np.testing.assert_array_equal(
        decode_compressed(encode(".png", RGB[..., 0])), RGB[..., :1].repeat(3, axis=2)
    )
    alpha = np.dstack([bgr, np.full((2, 3), 128, np.uint8)])
    np.testing.assert_array_equal(decode_compressed(encode(".png", alpha)), RGB)
    deep = bgr.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode_compressed(encode(".png", deep)), RGB)
    np.testing.assert_array_equal(decode_compressed(array("B", encode(".png", bgr))), RGB)


def test_jpeg_in_colour_and_grey():
    picture = smooth()
    rgb = decode_compressed(
        encode(".jpg", picture[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 98), "rgb8; jpeg compressed bgr8"
    )
    assert np.abs(rgb.astype(int) - picture).max() <= 10
    grey = decode_compressed(encode(".jpg", picture[..., 0]))
    assert grey.shape == picture.shape
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_padding_behind_a_jpeg_is_allowed():
    data = encode(".jpg", smooth())
    np.testing.assert_array_equal(decode_compressed(data + bytes(100)), decode_compressed(data))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(extension, part):
    data = encode(extension, np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    with pytest.raises(ImageError, match="cut short"):
        decode_compressed(data[: int(len(data) * part)], extension)


def test_a_thumbnail_does_not_hide_the_cut():
    thumbnail = encode(".jpg", smooth(8, 8))
    data = encode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode_compressed(whole).shape == (64, 80, 3)
    with pytest.raises(ImageError, match="cut short"):
        decode_compressed(whole[: len(whole) // 2 + len(segment)])


@pytest.mark.parametrize("name", ["x" * 10**6, "\x1b[2J" * 1000, "a\nb" * 1000])
def test_what_a_publisher_calls_its_image_fits_into_a_line(name, monkeypatch):
    """It stands in the log and on /diagnostics."""
    monkeypatch.setattr(images, "cv_bridge_is_sound", lambda: False)
    for decode in (lambda: to_rgb(bytes(16), 2, 2, name, 8), lambda: decode_compressed(b"GIF89a", name)):
        with pytest.raises(ImageError) as raised:
            decode()
        assert len(str(raised.value)) < 700 and str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JPEG, PNG"),
        (b"GIF89a..........", "expected JPEG, PNG"),
        (b"\xff\xd8\xff\xda\xff\xd9", "its head is damaged"),
    ],
)
def test_what_is_not_an_image_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        decode_compressed(data, "gif")


WIDE = {
    "rgb16": RGB,
    "bgr16": RGB[..., ::-1],
    "16UC3": RGB[..., ::-1],
    "rgba16": np.dstack([RGB, RGB[..., :1]]),
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", WIDE)
def test_of_16_bit_the_upper_byte_counts(encoding, big):
    pixels = (WIDE[encoding].astype(np.uint16) << 8 | 0xFF).astype(">u2" if big else "<u2")
    data, step = padded(pixels.view(np.uint8).reshape(2, -1), 4)
    np.testing.assert_array_equal(to_rgb(data, 2, 3, encoding, step, big), RGB)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_16_bit_and_in_compressed_images(pattern):
    mosaic = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    expected = to_rgb(mosaic, 24, 32, f"bayer_{pattern}8", 32)
    deep = mosaic.astype("<u2") << 8
    np.testing.assert_array_equal(
        to_rgb(deep.view(np.uint8).ravel(), 24, 32, f"bayer_{pattern}16", 64), expected
    )
    for picture, name in ((mosaic, f"bayer_{pattern}8"), (deep, f"bayer_{pattern}16")):
        png = encode(".png", picture)
        np.testing.assert_array_equal(decode_compressed(png, f"{name}; png compressed "), expected)
    grey = encode(".jpg", cv2.GaussianBlur(mosaic, (0, 0), 4))
    coloured = decode_compressed(grey, f"bayer_{pattern}8; jpeg compressed ")
    assert not (coloured[..., 0] == coloured[..., 2]).all()
    already = encode(".png", RGB[..., ::-1])
    np.testing.assert_array_equal(decode_compressed(already, f"bayer_{pattern}8; png compressed bgr8"), RGB)
    already = encode(".png", RGB[..., ::-1].astype(np.uint16) << 8)
    np.testing.assert_array_equal(decode_compressed(already, f"bayer_{pattern}16; png compressed bgr16"), RGB)


@pytest.mark.parametrize(
    ("name", "as_ros"),
    [("R8G8B8", "rgb8"), ("BGR_INT8", "bgr8"), ("L8", "mono8"), ("RGBA8", "rgba8"), ("NV12", "nv12")],
)
def test_names_of_simulators_and_drivers(name, as_ros):
    data = np.arange(6 * 8 * 4, dtype=np.uint8)
    step = {"rgba8": 32, "mono8": 8, "nv12": 8}.get(as_ros, 24)
    np.testing.assert_array_equal(to_rgb(data, 6, 8, name, step), to_rgb(data, 6, 8, as_ros, step))


def test_bit_errors_in_a_jpeg_are_noticed_without_a_line_on_stderr(capfd):
    data = encode(".jpg", np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    noticed = 0
    for place in range(700, len(data) - 2, len(data) // 50):
        broken = bytearray(data)
        broken[place : place + 4] = bytes(value ^ 0x5A for value in broken[place : place + 4])
        try:
            assert decode_compressed(bytes(broken)).shape == (120, 160, 3)
        except ImageError as error:
            assert "damaged" in str(error)
            noticed += 1
    assert noticed > 20
    assert capfd.readouterr().err == ""


def test_the_padding_of_webcams_is_no_damage():
    data = encode(".jpg", smooth())
    for padding in (b"\0", bytes(8), b"\0" * 15):
        np.testing.assert_array_equal(
            decode_compressed(data[:-2] + padding + data[-2:]), decode_compressed(data)
        )
        np.testing.assert_array_equal(decode_compressed(data + padding * 100), decode_compressed(data))


def test_jpeg_is_decoded_as_opencv_does():
    data = encode(".jpg", smooth(53, 71), cv2.IMWRITE_JPEG_QUALITY, 70)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_compressed(data), expected)
    progressive = encode(".jpg", smooth(53, 71), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    expected = cv2.imdecode(np.frombuffer(progressive, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_compressed(progressive), expected)


def test_red_and_blue_as_image_transport_says():
    png = encode(".png", RGB)  # not turned into OpenCV's order
    np.testing.assert_array_equal(decode_compressed(png, "rgb8; png compressed rgb8"), RGB)
    np.testing.assert_array_equal(decode_compressed(png, "rgb8; png compressed bgr8"), RGB[..., ::-1])
