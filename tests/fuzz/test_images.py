"""Mutated images: each is decoded or refused in one line, in bounded time and memory. $VSS_FUZZ: how many inputs."""

import cv2
import numpy as np
import pytest
from fixtures.bags import image
from fixtures.fuzz import COUNT, mutate_bytes, survives
from vss_ros.media.decode import ENCODINGS, decode, decode_compressed
from vss_ros.media.labels import decode_label_file, decode_labels

LIMIT = 1 << 20
MEBIBYTES = 300


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

    def data(rng):
        return mutate_bytes(rng, sound[int(rng.integers(2))])

    def picture_of(rng):
        return decode_compressed(data(rng), formats[int(rng.integers(4))], LIMIT)

    assert survives(f"pictures {extension}", picture_of, MEBIBYTES) < COUNT
    assert survives(f"masks {extension}", lambda rng: decode_label_file(data(rng), LIMIT), MEBIBYTES) < COUNT


@pytest.mark.parametrize("read", [decode, decode_labels])
def test_messages(read):
    names = (*ENCODINGS, "32SC1", "32FC1", "8SC1", "", "rgb", "\x00", "thermal99")

    def read_one(rng):
        message = image(0, str(rng.choice(names)), rng.integers(0, 256, (6, 8), np.uint8))
        message.is_bigendian = int(rng.integers(3))
        for field in rng.choice(["height", "width", "step", "data"], 2):
            if field == "data":
                message.data = message.data[: int(rng.integers(49))]
            else:
                setattr(message, field, int(rng.choice([0, 1, 2, 3, 5, 8, 16, 48, 2**16, 2**31, 2**32 - 1])))
        read(message, LIMIT)

    assert survives(f"messages {read.__name__}", read_one, MEBIBYTES) < COUNT
