"""True labels in every form that they come in."""

import io

import cv2
import numpy as np
import pytest
from fixtures.bags import image
from vss_ros.media.image_size import ImageError
from vss_ros.media.labels import decode_label_file, decode_labels

LABELS = np.zeros((6, 8), np.uint8)
LABELS[2:4], LABELS[4:] = 3, 11


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_read_as_ids(bits):
    pil = pytest.importorskip("PIL.Image")
    labels = LABELS & 2**bits - 1
    picture = pil.new("P", (8, 6))
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([value * 7 % 256 for value in range(3 * 2**bits)])
    file = io.BytesIO()
    picture.save(file, "png", bits=bits, transparency=0)
    np.testing.assert_array_equal(decode_label_file(file.getvalue()), labels)


def test_files_of_8_and_16_bit_and_in_one_channel():
    zero = np.zeros_like(LABELS)
    for array in (LABELS, LABELS.astype(np.uint16), np.dstack([LABELS] * 3), np.dstack([zero, zero, LABELS])):
        np.testing.assert_array_equal(decode_label_file(png(array)), LABELS)
    with pytest.raises(ImageError, match="several colours"):
        decode_label_file(png(np.dstack([LABELS, 2 * LABELS, zero])))
    with pytest.raises(ImageError, match="cut short"):
        decode_label_file(png(LABELS)[:-20])
    with pytest.raises(ImageError, match="raise max_pixels"):
        decode_label_file(png(LABELS), max_pixels=47)


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        *(
            ("mono8", "u1"),
            ("8UC1", "u1"),
            ("8SC1", "i1"),
            ("mono16", "u2"),
            ("16UC1", "u2"),
            ("16SC1", "i2"),
        ),
        *(("32SC1", "i4"), ("32FC1", "f4")),
    ],
)
@pytest.mark.parametrize("big", [0, 1])
def test_messages_of_whole_numbers(encoding, dtype, big):
    message = image(0, encoding, LABELS.astype(np.dtype(dtype).newbyteorder(">" if big else "<")))
    message.is_bigendian = big
    np.testing.assert_array_equal(decode_labels(message), LABELS)


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "8UC3"])
def test_messages_with_the_id_in_a_channel(encoding, channel):
    pixels = np.zeros((6, 8, 4 if "a" in encoding else 3), np.uint8)
    pixels[..., 3:] = 255
    pixels[..., channel] = LABELS
    np.testing.assert_array_equal(decode_labels(image(0, encoding, pixels)), LABELS)


def test_a_picture_is_no_mask():
    with pytest.raises(ImageError, match="in several colours"):
        decode_labels(image(0, "rgb8", np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)))


def test_ids_that_no_mask_holds_are_unlabelled():
    wide = LABELS.astype("<i4")
    wide[0] = (-1, 254, 255, 256, 70000, -(2**31), 2**31 - 1, 0)
    assert decode_labels(image(0, "32SC1", wide))[0].tolist() == [255, 254, 255, 255, 255, 255, 255, 0]
    with pytest.raises(ImageError, match="fractions"):
        decode_labels(image(0, "32FC1", LABELS.astype("<f4") / 7))
    with pytest.raises(ImageError, match="expected class ids"):
        decode_labels(image(0, "bayer_rggb8", LABELS))
    cut = image(0, "mono8", LABELS)
    cut.data = cut.data[:-9]
    with pytest.raises(ImageError, match="empty or cut short"):
        decode_labels(cut)
