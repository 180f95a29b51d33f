"""Every kind of source, whole and damaged."""

import logging
from fractions import Fraction

import cv2
import numpy as np
import pytest
from fixtures.bags import START, STEP, image, write_mcap, write_ros1
from fixtures.paths import find_data
from vss_ros import cli
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


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_of_varying_rate_keeps_its_times(tmp_path, suffix):
    av, path = pytest.importorskip("av", reason="needs PyAV"), tmp_path / f"clip.{suffix}"
    times = [0, 33, 66, 200, 233, 500, 533, 1500]  # ms
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(flat(time % 250, 48, 64), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(frames_of(open_source(path))[1], np.array(times) / 1e3, atol=1e-3)
    np.testing.assert_allclose(frames_of(open_source(path, fps=10))[1], np.arange(len(times)) / 10)


def test_a_topic_is_refused_of_what_has_none(video, folder, capsys, caplog):
    for source in (str(video), str(folder), "street", "street:7"):
        with pytest.raises(VssError, match="topic /front: expected a recording"):
            open_source(source, "/front")
    for words in (["predict", str(video)], ["predict", "camera:0"], ["evaluate", "--bag", "street"]):
        command = [*words, "--topic", "/front", "--out", str(folder / "out"), "--backend", "torch"]
        assert cli.main(command) == 1
        said = capsys.readouterr().err + caplog.text
        assert "topic /front: expected a recording" in said and "Traceback" not in said
        caplog.clear()


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


def test_street():
    scenes = pytest.importorskip("vss_ros.data.street.street")
    source = open_source("street:3", fps=15)
    assert (source.name, source.length, source.size, source.fps) == ("street:3", 300, (360, 480), 15)
    frames = source.frames()
    next(frames)
    rgb, stamp = next(frames)
    assert stamp == round(1e9 / 15)
    np.testing.assert_array_equal(rgb, scenes.Street(seed=3, size=(360, 480), fps=15).frame(1)[0])
    with pytest.raises(VssError, match="whole number"):
        open_source("street:x")
