"""Whether there is a GPU, asked without loading torch where there is none."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec

CUDA = "CUDAExecutionProvider"
"""ONNX Runtime's name of it."""


def has_cuda() -> bool:
    """Whether torch computes on a GPU here. torch, some 200 MB, is loaded only beside NVIDIA's driver."""
    if sys.modules.get("torch") is None and not (find_spec("torch") and has_driver()):
        return False
    import torch

    return torch.cuda.is_available()


def has_onnx_cuda() -> bool:
    """Whether ONNX Runtime computes on a GPU here: its build for CUDA (onnxruntime-gpu) beside NVIDIA's driver."""
    if not (find_spec("onnxruntime") and has_driver()):
        return False
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
