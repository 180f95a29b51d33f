"""Mutated images: each is decoded or refused in one line, in bounded time and memory. $VSS_FUZZ: how many inputs."""

import os
import resource
import time

import cv2
import numpy as np
import pytest
from fixtures.bags import image
from vss_ros.config import VssError
from vss_ros.media.decode import ENCODINGS, decode, decode_compressed
from vss_ros.media.labels import decode_label_file, decode_labels

COUNT = int(os.environ.get("VSS_FUZZ", "300"))
LIMIT = 1 << 20


def mutate(rng, data):
    """A copy with bytes flipped, set to extremes, removed, repeated or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        if not data:
            break
        at = int(rng.integers(len(data)))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            data[at : at + 4] = rng.bytes(4)
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 4:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        else:
            del data[at:]
    return bytes(data)


def survive(function, *arguments):
    """Call it; a VssError is an answer, any other exception is not. Seconds that it took."""
    started = time.perf_counter()
    try:
        function(*arguments)
    except VssError as error:
        assert len(str(error)) < 1000
    return time.perf_counter() - started


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff", ".webp", ".bmp", ".ppm"])
def test_files(extension):
    rng = np.random.default_rng(1)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3), np.uint8), (0, 0), 2)
    grey = ".pgm" if extension == ".ppm" else extension
    sound = [cv2.imencode(extension, picture)[1].tobytes(), cv2.imencode(grey, picture[..., 0])[1].tobytes()]
    formats = (
        "",
        "bgr8; png compressed bgr8",
        "bayer_rggb8; png compressed ",
        "bayer_rggb16; jpeg compressed",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    for index in range(COUNT):
        data = mutate(rng, sound[index % 2])
        slowest = max(slowest, survive(decode_compressed, data, formats[index % 4], LIMIT))
        slowest = max(slowest, survive(decode_label_file, data, LIMIT))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert slowest < 5 and grown < 300 << 10, (slowest, grown)


def test_messages():
    rng = np.random.default_rng(2)
    names = (*ENCODINGS, "32SC1", "32FC1", "8SC1", "", "rgb", "\x00", "thermal99")
    for _ in range(COUNT):
        message = image(0, str(rng.choice(names)), rng.integers(0, 256, (6, 8), np.uint8))
        message.is_bigendian = int(rng.integers(3))
        for field in rng.choice(["height", "width", "step", "data"], 2):
            if field == "data":
                message.data = message.data[: int(rng.integers(49))]
            else:
                setattr(message, field, int(rng.choice([0, 1, 2, 3, 5, 8, 16, 48, 2**16, 2**31, 2**32 - 1])))
        survive(decode, message, LIMIT)
        survive(decode_labels, message, LIMIT)
