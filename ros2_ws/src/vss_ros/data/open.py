"""Any data set by its name or path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vss_ros.config import VssError
from vss_ros.data.own.described import is_own, open_own
from vss_ros.data.points import POINT_SETS, StreetPoints
from vss_ros.data.published.camvid import camvid
from vss_ros.data.published.cityscapes import cityscapes
from vss_ros.data.published.vspw import vspw
from vss_ros.data.street.streets import Streets
from vss_ros.data.tags import TAG_SETS

DATASETS = {"camvid": camvid, "cityscapes": cityscapes, "vspw": vspw}


def open_dataset(
    name: str, split: str, root: str | Path | None = None, size: Sequence[int] = (360, 480)
) -> Any:
    """A data set by name, by the path of a YAML file that describes it, or an annotation tool's folder (`data.own`).

    root: its folder, by default the folder of that name in $VSS_DATA; size: (H, W) of what is rendered.
    Raises VssError for an unknown name and for a folder that is not laid out as published.
    """
    if name in ("street", "street_points"):
        return (Streets if name == "street" else StreetPoints)(split, (int(size[0]), int(size[1])))
    if is_own(name):
        return open_own(name, split)
    files = {**DATASETS, **POINT_SETS, **TAG_SETS}
    if name not in files:
        raise VssError(
            f"unknown data set {name!r}: expected one of street, street_points, {', '.join(files)}, "
            "or the path of a YAML file that describes one"
        )
    if root is None:
        if "VSS_DATA" not in os.environ:
            raise VssError(f"{name}: expected its folder (--root, or data: root in a recipe) or $VSS_DATA")
        root = Path(os.environ["VSS_DATA"]) / name
    return files[name](Path(root), split)


def open_labelled(
    name: str, split: str, root: str | Path | None = None, size: Sequence[int] = (360, 480)
) -> Any:
    """`open_dataset`; VssError where no frame of the split has labels."""
    data = open_dataset(name, split, root, size)
    if not len(data):
        raise VssError(f"{data.name}: expected labelled frames, found none: see `vss data check`")
    return data
