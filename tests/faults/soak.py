"""Runs the node for a while at 30 Hz and prints a line a minute: memory, descriptors, threads, frames.

python tests/faults/soak.py --minutes 60 --model street
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

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
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    code = "from vss_ros.nodes import run; raise SystemExit(run.segment())"
    options = ros_arguments({"model": args.model, "autostart": True})
    node = Process([sys.executable, "-c", code, *options], Path(tempfile.mkdtemp()) / "segment.log")
    client = Client()
    try:
        return soak(node, client, args.minutes * 60, (height, width))
    finally:
        code_of = node.stop()
        client.close()
        sys.stdout.write(f"ended with code {code_of}; log: {node.log}\n")


def soak(node: Process, client: Client, seconds: float, size: tuple[int, int]) -> int:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    masks = client.collect(Image, "/segment/mask", depth=30)
    reports = client.collect(DiagnosticArray, "/diagnostics", depth=30)
    assert node.logged("active: ", 600), node.text()
    publisher = client.publisher(Image)
    client.settle(publisher)
    process = psutil.Process(node.child.pid)
    # a camera that pans: noise would be a cut, and a keyframe, with every image
    picture = texture(size=(size[0] + 100, size[1] + 200))
    shifts = [*range(0, 96, 4), *range(96, 0, -4)]
    pictures = [image(window(picture, x, -100, size)) for x in shifts]
    started = said = time.monotonic()
    sent = answered = 0
    rows: list[tuple[float, float]] = []
    sys.stdout.write(
        "minute  RSS_MB  descriptors  threads    sent  received  dropped  answered  failed  worst\n"
    )
    while (now := time.monotonic()) - started < seconds:
        message, stamp = pictures[sent % len(pictures)], time.time()
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), int(stamp % 1 * 1e9)
        publisher.publish(message)
        sent += 1
        client.until(lambda due=started + sent / RATE: time.monotonic() >= due, 1.0)
        answered += len(masks)
        masks.clear()
        if now - said >= min(60.0, seconds / 10):
            said = now
            rss = process.memory_info().rss / 2**20
            rows.append((now - started, rss))
            bad = [status for report in reports for status in report.status if status.level[0]]
            counts = values(latest(reports, "input")) | values(latest(reports, "network")) if reports else {}
            received, dropped, failed = (counts.get(name, "?") for name in ("received", "dropped", "failed"))
            sys.stdout.write(
                f"{(now - started) / 60:6.1f}  {rss:6.0f}  {process.num_fds():11d}  {process.num_threads():7d}  "
                f"{sent:6d}  {received:>8}  {dropped:>7}  {answered:8d}  {failed:>6}  "
                f"{max((status.level[0] for status in bad), default=0)}\n"
            )
            for name, message in sorted({status.name: status.message for status in bad}.items()):
                sys.stdout.write(f"        {name}: {message}\n")
            sys.stdout.flush()
            reports.clear()
    growth = rows[-1][1] - rows[max(len(rows) // 10, 1) - 1][1]
    sys.stdout.write(f"growth after the first tenth: {growth:.0f} MB; {answered} of {sent} answered\n")
    return 0 if growth < GROWTH_MB and answered else 1


if __name__ == "__main__":
    sys.exit(main())
