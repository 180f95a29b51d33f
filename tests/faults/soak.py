"""Runs the node for a while at 30 Hz: a line a minute, printed and written, of memory, descriptors, threads, frames.

python tests/faults/soak.py --minutes 60 --model street --out soak.txt
nice -n 10 python tests/faults/soak.py      beside other work: frames are dropped, growth is judged all the same
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TextIO

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.motion import texture, window
from fixtures.ros import Client, Process, image, latest, ros_arguments, values

RATE = 30.0
GROWTH_MB = 50
"""Resident memory that may be added after the first tenth."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", default="street")
    parser.add_argument("--size", default="480x640", help="rows x columns of the images")
    parser.add_argument("--out", type=Path, default=Path("soak.txt"), help="file that each line is added to")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    code = "from vss_ros.nodes import run; raise SystemExit(run.segment())"
    options = ros_arguments({"model": args.model, "autostart": True})
    node = Process([sys.executable, "-c", code, *options], Path(tempfile.mkdtemp()) / "segment.log")
    client = Client()
    with args.out.open("a", buffering=1) as out:
        say(
            f"{datetime.now():%Y-%m-%d %H:%M} {args.model} {args.size}, nice {os.nice(0)}; log: {node.log}",
            out,
        )
        try:
            return soak(node, client, args.minutes * 60, (height, width), out)
        finally:
            say(f"ended with code {node.stop()}", out)
            client.close()


def say(line: str, out: TextIO) -> None:
    """Print a line, and keep it whatever comes after."""
    for stream in (sys.stdout, out):
        stream.write(line + "\n")
        stream.flush()


def soak(node: Process, client: Client, seconds: float, size: tuple[int, int], out: TextIO) -> int:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    masks = client.collect(Image, "/segment/mask", depth=30)
    reports = client.collect(DiagnosticArray, "/diagnostics", depth=30)
    if not node.logged("active: ", 600):
        say(f"not active after 600 s: {node.text()}", out)
        return 1
    publisher = client.publisher(Image)
    client.settle(publisher)
    process = psutil.Process(node.child.pid)
    # a camera that pans: noise would be a cut, and a keyframe, with every image
    picture = texture(size=(size[0] + 100, size[1] + 200))
    shifts = [*range(0, 96, 4), *range(96, 0, -4)]
    pictures = [image(window(picture, x, -100, size)) for x in shifts]
    started = said = time.monotonic()
    sent = answered = 0
    memory: list[float] = []
    say("minute  RSS_MB  descriptors  threads    sent  received  dropped  answered  failed  load  worst", out)
    while (now := time.monotonic()) - started < seconds and node.child.poll() is None:
        message, stamp = pictures[sent % len(pictures)], time.time()
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
        publisher.publish(message)
        sent += 1
        client.until(lambda due=started + sent / RATE: time.monotonic() >= due, 1.0)
        answered += len(masks)
        masks.clear()
        if now - said < min(60.0, seconds / 10):
            continue
        said = now
        memory.append(process.memory_info().rss / 2**20)
        bad = [status for report in reports for status in report.status if status.level[0]]
        counts = values(latest(reports, "input")) | values(latest(reports, "network")) if reports else {}
        received, dropped, failed = (counts.get(name, "?") for name in ("received", "dropped", "failed"))
        say(
            f"{(now - started) / 60:6.1f}  {memory[-1]:6.0f}  {process.num_fds():11d}  {process.num_threads():7d}  "
            f"{sent:6d}  {received:>8}  {dropped:>7}  {answered:8d}  {failed:>6}  {os.getloadavg()[0]:4.1f}  "
            f"{max((status.level[0] for status in bad), default=0)}",
            out,
        )
        for name, message in sorted({status.name: status.message for status in bad}.items()):
            say(f"        {name}: {message}", out)
        reports.clear()
    if node.child.poll() is not None or not memory:
        say(
            f"the node ended after {(time.monotonic() - started) / 60:.1f} minutes: {node.text()[-2000:]}",
            out,
        )
        return 1
    growth = memory[-1] - memory[max(len(memory) // 10, 1) - 1]
    say(f"growth after the first tenth: {growth:.0f} MB; {answered} of {sent} answered", out)
    return 0 if growth < GROWTH_MB and answered else 1


if __name__ == "__main__":
    sys.exit(main())
