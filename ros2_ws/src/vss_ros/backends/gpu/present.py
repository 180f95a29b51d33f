"""Whether there is a GPU, asked without loading torch where there is none."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec


def has_cuda() -> bool:
    """Whether torch computes on a GPU here. torch, some 200 MB, is loaded only beside NVIDIA's driver."""
    if sys.modules.get("torch") is None and not (find_spec("torch") and has_driver()):
        return False
    import torch

    return torch.cuda.is_available()


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
