"""A live web page of a running segment node: overlay, classes, latency, keyframes and consistency.

Open the printed address in a browser. Through SSH: `ssh -L 8088:localhost:8088 robot`, then http://localhost:8088.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, fields

from vss_ros.config import check, option
from vss_ros.nodes.processes import large_images, require_ros
from vss_ros.options import add_options, from_options


@dataclass(frozen=True)
class WatchConfig:
    """Options of `vss watch` and parameters of the `watcher` node."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets others in, who then need the token")
    port: int = option(8088, "TCP port; 0 takes a free one", low=0, high=65535)
    token_file: str = option(
        "",
        "file with the secret in the address, which is needed beyond this machine; empty: $VSS_WATCH_TOKEN, else a new "
        "one each start, shown on the terminal or left in a file of yours",
    )
    node: str = option("segment", "name of the segment node in the watcher's namespace")
    fps: float = option(10.0, "pictures a second at most", low=0.1, high=60.0)
    width: int = option(960, "columns of the pictures at most", low=16, high=8192)
    quality: int = option(80, "JPEG quality of the pictures", low=1, high=100)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PlaceConfig:
    """Where `vss watch` finds the node."""

    namespace: str = option("", "namespace of the segment node")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PlaceConfig)
    add_options(parser, WatchConfig)


def main(args: argparse.Namespace) -> int:
    require_ros()
    config = from_options(WatchConfig, args)
    os.environ.update(large_images())
    from vss_ros.nodes import run

    arguments = ["--ros-args"]
    if args.namespace.strip("/"):
        arguments += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
    for item in fields(WatchConfig):
        arguments += ["-p", f"{item.name}:={json.dumps(getattr(config, item.name))}"]
    return run.watcher(arguments)
