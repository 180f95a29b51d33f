"""A network's stages as ONNX files' contents, by torch's exporter."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Container

import torch
from torch import nn

from vss_ros.backends.stages import flat_stages
from vss_ros.networks.cards.imported import Imported, to_stage
from vss_ros.networks.cards.model import Model
from vss_ros.options import progress

CPU_OPSET = 20
TENSORRT_OPSET = 18  # the newest that TensorRT 10.3 reads in full


def export(model: Model, opset: int = CPU_OPSET, wanted: Container[str] | None = None) -> dict[str, bytes]:
    """ONNX model of every stage, or of those wanted, at a fixed input size."""
    if isinstance(model.network, Imported):
        return {"propagate": to_stage(model.network, model.size, model.mean, model.std)}
    stages = flat_stages(model)
    names = [name for name in stages if wanted is None or name in wanted]
    return {name: to_onnx(*stages[name], opset) for name in progress(names, "exporting", unit="stage")}


@torch.no_grad()
def to_onnx(module: nn.Module | torch.export.ExportedProgram, inputs: tuple, opset: int) -> bytes:
    """ONNX model of a stage without duplicate initialisers; its inputs are named in0, in1, …"""
    from onnx_ir.passes.common import DeduplicateInitializersPass

    names = [f"in{i}" for i in range(len(inputs))]
    # torchvision is missing, and the like
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, inputs, dynamo=True, opset_version=opset, input_names=names, verbose=False
            )
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
    DeduplicateInitializersPass(size_limit=1 << 40)(program.model)
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()
