"""INT8 by post-training quantisation of the stages' ONNX files (ONNX Runtime's quantiser, QDQ format).

Activations and weights are symmetric int8, weights per output channel, so that one file serves ONNX Runtime, OpenVINO
and TensorRT. Convolutions and matrix products are quantised; LayerNorm, softmax and normalisations never are.
"""

from __future__ import annotations

import ast
import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError

QUANTISED = ("Conv", "MatMul")
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,  # weights stay float32 in the file: a layer can be given back, TensorRT wants it
    "QuantizeBias": False,  # TensorRT has no int32 dequantisation
    "OpTypesToExcludeOutputQuantization": list(QUANTISED),  # only what a layer reads: the next may stay float
}

Arrays = tuple[np.ndarray, ...]


def quantise(model: bytes, inputs: Sequence[Arrays]) -> bytes:
    """An ONNX stage with a quantise/dequantise pair before each input of its layers.

    inputs: what the stage was given on real frames; each layer's scale holds the greatest value seen in it.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if any(
        item.data_type == onnx.TensorProto.FLOAT16 for item in onnx.load_from_string(model).graph.initializer
    ):
        raise VssError("int8: expected weights of float32, got float16: export the network in float32")

    class Recorded(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            values = next(self.left, None)
            return None if values is None else {f"in{i}": value for i, value in enumerate(values)}

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(model)
        logging.disable(logging.WARNING)  # it recommends a preparation that would merge layers across groups
        try:
            quantize_static(
                before,
                after,
                Recorded(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options=OPTIONS,
            )
        finally:
            logging.disable(logging.NOTSET)
        return after.read_bytes()


def layer_groups(model: bytes) -> dict[str, str]:
    """Nodes of an ONNX stage that can be quantised, and the group of layers that each belongs to.

    A group is a part of the network (its first two module names) and a kind of layer, such as
    "backbone.block1 depthwise", since it is kinds of layers that suffer, or that a runtime computes badly.
    """
    import onnx

    graph = onnx.load_from_string(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    return {
        node.name: f"{part_of(node)} {kind_of(node, constants)}"
        for node in graph.node
        if node.op_type in QUANTISED
    }


def part_of(node: Any) -> str:
    """The module that a node was exported from, as torch.onnx notes it; "fusion" for code outside of a module. Of other
    exporters' files the first two parts of the node's name."""
    notes = {item.key: item.value for item in node.metadata_props}
    if "pkg.torch.onnx.name_scopes" not in notes and "/" in node.name:
        return ".".join([part for part in node.name.split("/")[:-1] if part][:2]) or "fusion"
    scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    modules = [name for name in scopes[:-1] if name]
    inner = re.sub(r"^(encode\.|module\.|inner\.|network\.)+", "", modules[-1] + "." if modules else "")
    return ".".join(inner.split(".")[:2]).rstrip(".") or "fusion"


def kind_of(node: Any, constants: set[str]) -> str:
    if node.op_type == "MatMul":
        return "linear" if set(node.input) & constants else "attention"
    found = {item.name: item for item in node.attribute}
    if "group" in found and found["group"].i > 1:
        return "depthwise"
    kernel, stride = (
        list(found[name].ints) if name in found else [1, 1] for name in ("kernel_shape", "strides")
    )
    return "patches" if kernel == stride and max(stride) > 1 else "conv"


def keep_float(model: bytes, nodes: Iterable[str]) -> bytes:
    """A quantised ONNX stage in which these layers compute in floating point again."""
    import onnx

    found = onnx.load_from_string(model)
    made_by = {output: node for node in found.graph.node for output in node.output}
    wanted = set(nodes)
    for node in found.graph.node:
        if node.name in wanted:
            for i, name in enumerate(node.input):
                pair = made_by.get(name)
                if pair is not None and pair.op_type == "DequantizeLinear":
                    node.input[i] = made_by[pair.input[0]].input[0]
    used = {name for node in found.graph.node for name in node.input} | {
        item.name for item in found.graph.output
    }
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        idle = [node for node in found.graph.node if node.op_type == kind and not used & set(node.output)]
        for node in idle:
            found.graph.node.remove(node)
        used = {name for node in found.graph.node for name in node.input} | {
            item.name for item in found.graph.output
        }
    for tensor in [tensor for tensor in found.graph.initializer if tensor.name not in used]:
        found.graph.initializer.remove(tensor)
    return found.SerializeToString()
