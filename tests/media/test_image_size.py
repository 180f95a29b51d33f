"""The size that a file states is read, and checked, before anything is decoded."""

import zlib

import cv2
import numpy as np
import pytest
from vss_ros.media import decode as images
from vss_ros.media.decode import ImageError, decode_compressed
from vss_ros.media.image_size import image_size


def smooth(height=24, width=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + 3 * x, 200 - 4 * y, 90 + 2 * x + y], axis=2).astype(np.uint8)


def encode(extension, picture):
    return cv2.imencode(extension, picture)[1].tobytes()


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tiff", ".webp", ".bmp", ".ppm", ".pgm"])
def test_every_format_states_its_size(extension):
    picture = smooth(40, 60) if extension != ".pgm" else smooth(40, 60)[..., 0]
    data = encode(extension, picture)
    assert image_size(data) == (40, 60)
    assert decode_compressed(data, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(ImageError, match="60x40 pixels: expected at most 2399; raise max_pixels"):
        decode_compressed(data, max_pixels=2399)


def test_what_states_a_gigapixel_is_refused_before_it_is_decoded(monkeypatch):
    def unwanted(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(images.cv2, "imdecode", unwanted)
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", unwanted)
    jpeg = bytearray(encode(".jpg", smooth()))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (32000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="32000x32000 pixels"):
        decode_compressed(bytes(jpeg))
    png = encode(".png", smooth())
    for at in (8, png.index(b"IDAT") - 4):  # the length of the first chunk, and of the data
        broken = bytearray(png)
        broken[at] ^= 0x40
        with pytest.raises(ImageError, match="length of a chunk is damaged"):
            decode_compressed(bytes(broken))
    header = b"IHDR" + (50000).to_bytes(4, "big") * 2 + png[24:29]
    huge = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
    with pytest.raises(ImageError, match="50000x50000 pixels"):
        decode_compressed(huge)
    for other in (
        encode(".tiff", smooth(64, 80)),
        encode(".bmp", smooth(64, 80)),
        encode(".webp", smooth(64, 80)),
    ):
        with pytest.raises(ImageError, match="80x64 pixels"):
            decode_compressed(other, max_pixels=1000)
