"""Data sets before hours go into training.

`check DATA`: counts, sizes, share of each class, pairs that are broken. `import coco|labelme IN OUT`: regions of
annotation tools as masks with a YAML file, which --data of every command takes.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vss_ros.config import IGNORE, VssError
from vss_ros.data.clips import Video
from vss_ros.data.open import DATASETS, open_dataset
from vss_ros.data.own.annotations import write_set
from vss_ros.data.own.coco import read_coco
from vss_ros.data.own.labelme import read_labelme
from vss_ros.data.tags import TAG_SETS, check_tags

IMPORTS = {"coco": read_coco, "labelme": read_labelme}

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(("street", *DATASETS, *TAG_SETS))
    parser.add_argument("action", choices=("check", "import"))
    parser.add_argument(
        "data",
        nargs="+",
        help=f"check: {known}, or the YAML file or folder of a data set of your own; import: {' or '.join(IMPORTS)}, "
        "then the folder (or COCO's .json file) to read, and a new folder to write",
    )
    parser.add_argument(
        "--background", default="", help="import: class of all that is in no region (default: none)"
    )
    parser.add_argument(
        "--val",
        type=float,
        default=0.2,
        help="import: share of images for val where no file says (default: 0.2)",
    )
    parser.add_argument("--split", default="train,val,test", help="splits, with commas")
    parser.add_argument("--root", type=Path, help="folder of the data set ($VSS_DATA/<name>)")
    parser.add_argument("--limit", type=int, default=0, help="labelled frames a split at most; 0: all")


def main(args: argparse.Namespace) -> int:
    if args.action == "import":
        return read_annotations(args)
    if len(args.data) != 1:
        raise VssError(f"check: expected one data set, got {' '.join(args.data)}")
    name, broken = args.data[0], 0
    for split in args.split.split(","):
        if name in TAG_SETS and name != "pseudo":
            tagged = open_dataset(name, split, args.root)
            log.info("%s", "\n".join([f"{tagged.name}: {len(tagged)} images", *check_tags(tagged)]))
            continue
        report = check(open_dataset(name, split, args.root), args.limit)
        broken += len(report["broken"])
        log.info("%s", format_report(report))
    return 1 if broken else 0


def read_annotations(args: argparse.Namespace) -> int:
    """`vss data import`: 1 where something was left out."""
    if len(args.data) != 3 or args.data[0] not in IMPORTS:
        raise VssError(f"import: expected {' or '.join(IMPORTS)}, IN and OUT, got {' '.join(args.data)}")
    if not 0 <= args.val < 1:
        raise VssError(f"--val: expected a share in [0, 1), got {args.val}")
    names, found, bad = IMPORTS[args.data[0]](Path(args.data[1]))
    for line in bad:
        log.warning("left out: %s", line)
    more = write_set(Path(args.data[2]), names, found, args.background, args.val)
    for line in more:
        log.warning("left out: %s", line)
    return 1 if bad or more else 0


def check(data: Any, limit: int = 0) -> dict[str, Any]:
    """Read every labelled frame (or `limit` of them, evenly spread); what cannot be read goes to "broken"."""
    pixels = np.zeros(256, np.int64)
    sizes: Counter = Counter()
    broken = []
    chosen = np.unique(np.linspace(0, len(data) - 1, limit or len(data)).astype(int))
    for i in tqdm(chosen, desc=data.name, leave=False, disable=None):
        try:
            clip = data.clip(int(i))
        except VssError as error:
            broken.append(str(error))
            continue
        sizes[clip.frames[0].shape[:2]] += 1
        pixels += np.bincount(clip.labels[0].ravel(), minlength=256)
    return {
        "name": data.name,
        "labelled": len(data),
        "read": len(chosen),
        "sequences": dict(Counter(map(kind_of, data.videos()))),
        "sizes": dict(sizes),
        "shares": dict(zip(data.classes, pixels / max(pixels.sum(), 1), strict=False)),
        "unlabelled": float(pixels[IGNORE] / max(pixels.sum(), 1)),
        "broken": broken,
    }


def kind_of(video: Video) -> str:
    """What can be measured on it."""
    if video.dense:
        return "videos, every frame labelled (mIoU, VC, TC)"
    return "videos with frames between the labels (mIoU, TC)" if video.moves else "of stills (mIoU)"


def format_report(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{w}x{h} ({n})" for (h, w), n in report["sizes"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["sequences"].items())
    lines = [
        f"{report['name']}: {report['labelled']} labelled frames; sequences: {kinds}",
        f"  read {report['read']}, sizes {sizes or 'none'}, unlabelled {report['unlabelled']:.2%} of the pixels",
        *(f"  {share:8.3%}  {name}" for name, share in report["shares"].items()),
        *(f"  broken: {error}" for error in report["broken"]),
    ]
    return "\n".join(lines)
