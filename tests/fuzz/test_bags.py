"""Mutated recordings: each is read as far as it goes or refused in one line. $VSS_FUZZ: how many inputs."""

import os
import resource
import time

import numpy as np
import pytest
import zstandard
from fixtures.bags import TOPIC, write_db3, write_mcap, write_metadata, write_ros1
from fixtures.fuzz import mutate_bytes
from mcap.writer import CompressionType
from vss_ros.config import VssError
from vss_ros.media.bags import BagReader
from vss_ros.media.bags.recover import recover

COUNT = int(os.environ.get("VSS_FUZZ", "100"))


def mcap(folder):
    return write_mcap(folder / "a.mcap", chunk_size=200)


def plain_mcap(folder):
    return write_mcap(folder / "a.mcap", chunk_size=200, compression=CompressionType.NONE, enable_crcs=False)


def loose_mcap(folder):
    return write_mcap(folder / "a.mcap", use_chunking=False)


def packed(folder):
    path = folder / "a.db3.zstd"
    path.write_bytes(zstandard.compress(write_db3(folder / "a.db3").read_bytes()))
    (folder / "a.db3").unlink()
    return path


def metadata(folder):
    write_db3(folder / "a_0.db3")
    write_metadata(folder, ["a_0.db3"], topics_with_message_count=[{"topic_metadata": {"name": TOPIC}}])
    return folder / "metadata.yaml"


SHAPES = {
    "mcap": mcap,
    "mcap without checksums": plain_mcap,
    "mcap without chunks": loose_mcap,
    "db3": lambda folder: write_db3(folder / "a.db3"),
    "db3.zstd": packed,
    "metadata.yaml": metadata,
    "ROS 1": lambda folder: write_ros1(folder / "a.bag", compression="LZ4"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_recordings(tmp_path, shape):
    rng = np.random.default_rng(3)
    path = SHAPES[shape](tmp_path)
    sound = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, read = 0.0, 0
    for _ in range(COUNT):
        path.write_bytes(mutate_bytes(rng, sound))
        started = time.perf_counter()
        try:
            with BagReader(tmp_path) as bag:
                topics = [name for name, (kind, _) in bag.topics.items() if kind == "sensor_msgs/msg/Image"]
                read += sum(1 for _ in bag.messages(topics))
        except VssError as error:
            assert len(str(error)) < 2000
        slowest = max(slowest, time.perf_counter() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert read > COUNT / 2 or shape == "db3.zstd", "most mutations leave most messages"
    assert slowest < 10 and grown < 600 << 10, (slowest, grown)


def test_recovery(tmp_path):
    rng = np.random.default_rng(4)
    path = mcap(tmp_path)
    sound = path.read_bytes()
    for _ in range(COUNT):
        path.write_bytes(mutate_bytes(rng, sound))
        try:
            count = recover(path)
        except VssError:
            continue
        with BagReader(path) as bag:
            assert sum(count for _, count in bag.topics.values()) <= max(count, 10)
