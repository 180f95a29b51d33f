"""Live sources: dropped frames rather than late ones, lost sources, and real streams over the machine's own network."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from contextlib import closing

import cv2
import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.media import live
from vss_ros.media.live import Live, is_live


class Capture:
    """Called like `open_capture`, gives itself; frames that are None stand for a failed read. `opens`: whether it
    plays at each opening, the last answer for all that follow. gate: one read a permit, where it is given."""

    def __init__(self, frames, opens=(True, False), gate: threading.Semaphore | None = None, fps=0.0):
        self.frames, self.opens, self.gate, self.fps = list(frames), list(opens), gate, fps
        self.asked, self.released, self.plays = 0, 0, False

    def __call__(self, address: str) -> Capture:
        self.plays = self.opens[min(self.asked, len(self.opens) - 1)]
        self.asked += 1
        return self

    def isOpened(self) -> bool:
        return self.plays

    def get(self, name: int) -> float:
        size = {cv2.CAP_PROP_FRAME_HEIGHT: 32.0, cv2.CAP_PROP_FRAME_WIDTH: 48.0, cv2.CAP_PROP_FPS: self.fps}
        return size.get(name, -1.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.gate:
            self.gate.acquire()
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def release(self) -> None:
        self.released += 1


needs_ffmpeg = pytest.mark.skipif(
    "FFMPEG:                      YES" not in cv2.getBuildInformation(),
    reason="this OpenCV plays no network streams: it is built without FFmpeg",
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(live, "WAITS", (0.001,))


def pictures(count, first=0):
    return [np.full((32, 48, 3), 10 * (first + i), np.uint8) for i in range(count)]


def test_what_is_live(tmp_path):
    assert all(map(is_live, ("camera:0", "rtsp://a/b", "http://a", "udp://127.0.0.1:5000", "/dev/null")))
    assert not any(map(is_live, ("street", "clip.mp4", str(tmp_path), "/nowhere/video0")))


def test_who_is_slow_misses_frames_and_gets_the_newest():
    gate = threading.Semaphore(0)
    source = Live("camera:0", 0.0, capture=Capture(pictures(6), gate=gate))
    frames = iter(source)
    gate.release()
    assert next(frames)[0][0, 0, 0] == 0
    gate.release(4)
    with source.changed:
        assert source.changed.wait_for(lambda: source.seen == 5, 20)
    rgb, stamp = next(frames)
    assert rgb[0, 0, 0] == 40 and source.dropped == 3 and abs(time.time() - stamp) < 60
    gate.release(10)
    assert [rgb[0, 0, 0] for rgb, _ in frames] == [50]


def test_what_a_slow_reader_leaves_out_is_no_gap(monkeypatch):
    times = iter([100.0, 100.1, 100.3, 103.3, 103.4, 103.5])
    monkeypatch.setattr("vss_ros.media.live.time.time", lambda: next(times))
    gate = threading.Semaphore(1)
    source = Live("camera:0", 0.0, capture=Capture(pictures(6), gate=gate))
    frames = iter(source)
    gaps = []
    for read, more in ((1, 2), (3, 2), (5, 9)):
        with source.changed:
            assert read == 1 or source.changed.wait_for(lambda read=read: source.seen == read, 20)
        gaps.append((next(frames)[1], round(source.gap, 3)))
        gate.release(more)
    assert gaps == [(100.0, 0.0), (100.3, 0.2), (103.4, 3.0)]


def test_a_lost_source_comes_back(caplog):
    capture = Capture([*pictures(1), None, *pictures(1, 1)], opens=(True, False, False, True, False))
    capture.gate = threading.Semaphore(1)
    source = Live("rtsp://me:secret@host/a", 0.2, capture=capture)
    with caplog.at_level(logging.WARNING):
        frames = iter(source)
        assert next(frames)[0][0, 0, 0] == 0
        capture.gate.release(9)
        assert [rgb[0, 0, 0] for rgb, _ in frames] == [10]
    assert "rtsp://host/a: lost after 1 frames; trying again" in caplog.text
    assert "rtsp://host/a: back after" in caplog.text and "not back within 0.2 s" in caplog.text
    assert "secret" not in caplog.text


def test_leaving_ends_the_thread():
    capture = Capture(pictures(3), opens=(True,))
    for _ in Live("camera:0", 1e6, capture=capture):
        break
    assert not [thread for thread in threading.enumerate() if thread.name == "live"]
    assert capture.released


def test_what_does_not_open_or_is_too_large_is_refused():
    with pytest.raises(VssError, match="rtsp://host/a: cannot be opened") as raised:
        Live("rtsp://me:secret@host/a", capture=Capture([], opens=(False,)))
    assert "secret" not in str(raised.value)
    with pytest.raises(VssError, match="camera:0: image of 48x32 pixels"):
        Live("camera:0", max_pixels=100, capture=Capture([]))


@needs_ffmpeg
def test_motion_jpeg_over_http():
    """The real capture: a stream without an end or a stated length."""
    picture = cv2.imencode(".jpg", np.full((32, 48, 3), (0, 0, 250), np.uint8))[1].tobytes()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while True:
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
                    time.sleep(0.01)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            source = Live(f"http://127.0.0.1:{server.server_port}/a.mjpg", 0.0)
            assert source.length is None
            frames = iter(source)
            for _ in range(3):
                rgb, _ = next(frames)
                assert rgb.shape == (32, 48, 3) and rgb[0, 0].tolist()[0] > 230 and rgb[0, 0, 2] < 20
            frames.close()
        finally:
            server.shutdown()


def free_port(kind: str) -> int:
    sort = socket.SOCK_STREAM if kind == "rtsp" else socket.SOCK_DGRAM
    with closing(socket.socket(socket.AF_INET, sort)) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("address", "kind"), [("udp://127.0.0.1:{}", "mpegts"), ("rtsp://127.0.0.1:{}/a", "rtsp")]
)
def test_video_over_the_network(address, kind, monkeypatch):
    """MPEG-TS over UDP, and RTSP itself, for which the capture listens and the camera announces its stream."""
    av = pytest.importorskip("av", reason="PyAV plays the camera: install the extra [demo]")
    if kind == "rtsp":
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;listen|listen_timeout;10")
    address, stop = address.format(free_port(kind)), threading.Event()

    def send():
        while not stop.is_set():
            try:
                with av.open(address, "w", format=kind) as target:
                    stream = target.add_stream("mpeg4", rate=30)
                    stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
                    while not stop.wait(0.01):
                        picture = np.full((48, 64, 3), (250, 0, 0), np.uint8)
                        target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            except (OSError, av.FFmpegError):
                stop.wait(0.05)  # nobody listens yet

    camera = threading.Thread(target=send, daemon=True)
    camera.start()
    try:
        frames = iter(Live(address, 0.0))
        rgb, _ = next(frames)
        assert rgb.shape == (48, 64, 3) and rgb[20, 20, 0] > 200 and rgb[20, 20, 2] < 60
        frames.close()
    finally:
        stop.set()
        camera.join(20)
