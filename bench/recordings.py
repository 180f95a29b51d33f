"""How fast recordings are read, and whether ten minutes of one are evaluated without the memory growing.

python bench/recordings.py read     # frames a second of one core: mcap, raw and JPEG, 640x480
python bench/recordings.py memory   # a bag of ten minutes at 15 Hz through `vss evaluate --bag`
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from vss_ros.data.source import open_source
from vss_ros.data.street.street import Street
from vss_ros.evaluate.run import Task, evaluate_run, header, jpeg_message
from vss_ros.media.bags import COMPRESSED, IMAGE, BagWriter, typestore

SIZE = (480, 640)


def scenes(count: int) -> list[np.ndarray]:
    street = Street(seed=1, size=SIZE, fps=15.0)
    return [street.frame(t)[0] for t in range(count)]


def raw_message(stamp: int, rgb: np.ndarray) -> object:
    height, width = rgb.shape[:2]
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR).ravel()
    return typestore().types[IMAGE](header(stamp), height, width, "bgr8", 0, 3 * width, bgr)


def record(path: Path, pictures: list[np.ndarray], frames: int, compressed: bool) -> None:
    """A bag of 15 Hz that shows the pictures forwards and backwards."""
    kind, make = (COMPRESSED, jpeg_message) if compressed else (IMAGE, raw_message)
    messages = [make(0, rgb) for rgb in pictures]
    order = [*range(len(messages)), *range(len(messages) - 2, 0, -1)]
    with BagWriter(path) as bag:
        for index in range(frames):
            stamp = 10**18 + index * 10**9 // 15
            message = messages[order[index % len(order)]]
            message.header = header(stamp)
            bag.write("/camera/image", kind, message, stamp)


def read(folder: Path) -> None:
    cv2.setNumThreads(1)
    pictures = scenes(30)
    for compressed in (False, True):
        path = folder / f"drive{compressed}"
        record(path, pictures, 600, compressed)
        source = open_source(path)
        start = time.process_time()
        frames = sum(1 for _ in source)
        seconds = time.process_time() - start
        print(f"{'JPEG' if compressed else 'bgr8'}: {frames / seconds:6.0f} frames/s of one core")


def memory(folder: Path) -> None:
    record(folder / "drive", scenes(60), 9000, True)

    def show(done: int) -> None:
        if done % 900 == 0 or done == 100:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{done / 15:5.0f} s: {pages * 4096 / 2**20:6.0f} MiB", flush=True)

    # A small input makes the network cheap; everything else is as always.
    stream = {"model": "street", "height": 96, "width": 128, "threads": 1}
    evaluate_run(Task(str(folder / "drive"), "small", str(folder / "out" / "small"), stream), show)
    written = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"bag, masks, overlay and figures: {written / 2**20:.0f} MiB on disk")


if __name__ == "__main__":
    commands = {"read": read, "memory": memory}
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:] or commands:
            commands[name](Path(temporary))
