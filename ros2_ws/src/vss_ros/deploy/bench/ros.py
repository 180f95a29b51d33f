"""Cost of everything around the network: camera messages in, masks out, the network replaced by a constant."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from vss_ros.media.bags import BagReader
from vss_ros.media.decode import stamp_ns
from vss_ros.media.draw import write_image
from vss_ros.nodes.demo import run_nodes

SIZES = ((480, 640), (1024, 2048))
FPS = 30.0
FRAMES = 300
PICTURES = 10  # different images on disk; their content does not matter


def overhead() -> list[list[str]]:
    """Rows for each image size: size, frames sent, masks lost, two medians in ms.

    The first is the node's own time, from the callback with the image to the mask's publication. The second goes from
    the camera's stamp, taken just before it publishes, to the mask in a third process: DDS carries both ways.
    """
    return [measure(height, width) for height, width in SIZES]


def measure(height: int, width: int) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clip").mkdir()
        rng = np.random.default_rng(0)
        for i in range(PICTURES):
            # BMP: reading a compressed picture would take the time of the processor that is measured
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            write_image(folder / "clip" / f"{i}.bmp", noise)
        camera = {"source": str(folder / "clip"), "fps": FPS, "loop": True, "max_frames": FRAMES}
        made = run_nodes({"constant_network": True}, camera, {"video": False}, FRAMES, folder)
        sent = len((folder / "stamps").read_text().split())
        published, received = [], []
        with BagReader(made / "bag") as bag:
            for topic, time, message in bag.messages(["/segmentation/mask", "/segmentation/consistency"]):
                if topic == "/segmentation/mask":
                    received.append((time - stamp_ns(message)) / 1e6)
                else:
                    values = {item.key: item.value for item in message.status[0].values}
                    published.append(float(values["node_ms"]))
    lost = sent - len(received)
    return [f"{width}×{height}", str(sent), str(lost), f"{median(published):.1f}", f"{median(received):.1f}"]
