"""Fixtures that all tests share: where real data lies, a tiny model on disk, a cache of its own."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pytest

# the networks of the tests are tiny: a second thread only waits for the first
os.environ.setdefault("OMP_NUM_THREADS", "1")
# without a GPU, a Jetson's or another, kernels are interpreted; Triton asks while it is imported
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvmap")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Exports of the tests stay out of the user's cache; the processes of `pytest -n` share one."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["VSS_CACHE"] = str(base / "cache")


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators():
    """torch's exporter makes its table of ONNX operators anew for each stage, a third of the time of a small one.

    Only in the processes of `pytest -n`: importing the exporter takes a second, and a single file seldom needs it.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory) -> Path:
    """Card of a DCFM with random weights, 64×96, three classes."""
    import torch
    from vss_ros.networks import build
    from vss_ros.networks.cards.card import ModelCard, save_model

    torch.manual_seed(0)
    card = ModelCard(
        name="tiny",
        network="dcfm",
        backbone="mit_b0",
        classes=["road", "car", "sky"],
        palette=[[128, 64, 128], [64, 0, 128], [128, 128, 128]],
        size=[64, 96],
        weights="tiny.safetensors",
        sha256="",
        licence="Apache-2.0",
    )
    return save_model(build("dcfm", "mit_b0", 3), card, tmp_path_factory.mktemp("models"))
