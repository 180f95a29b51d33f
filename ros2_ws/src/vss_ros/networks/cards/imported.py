"""A network that exists only as an ONNX file of its owner's: what a stream must know of it, and its one stage."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from vss_ros.config import VssError, brief, missing
from vss_ros.networks.cards.reading import OfOnnx

log = logging.getLogger(__name__)
OUTPUTS = ("logits", "probabilities", "labels", "logit", "probability")
"""The last two are one map: of the second of two classes."""
LAYOUTS = ("nchw", "nhwc")
CHOICES = {"input_layout": LAYOUTS, "output_layout": LAYOUTS, "output": OUTPUTS, "channels": ("rgb", "bgr")}
OPSET = 13
"""Before it QuantizeLinear knows no axis."""
LEAST = 1e-7
"""Of a probability, so that its logarithm is finite."""
WIDE = (
    "Exp",
    "LayerNormalization",
    "Log",
    "OneHot",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Resize",
    "Softmax",
    "Sqrt",
)
"""Operators that stay in float32."""
CERTAIN = 12.0
"""Logit of a class where the network gives nothing but labels; all others have 0."""


class Imported(nn.Module, OfOnnx):
    """content: of the ONNX file; options: names of its `input` and output (`output_name`), and what CHOICES lists."""

    def __init__(self, content: bytes, classes: int, **options: Any):
        super().__init__()
        defaults = {"input": "", "output_name": ""} | {name: known[0] for name, known in CHOICES.items()}
        if unknown := sorted(set(options) - set(defaults)):
            raise VssError(f"onnx: unknown options {brief(unknown)}: expected some of {', '.join(defaults)}")
        self.content, self.classes, self.options = content, classes, defaults | options
        for name, known in CHOICES.items():
            if self.options[name] not in known:
                raise VssError(
                    f"onnx: {name}: expected {' or '.join(known)}, got {brief(repr(self.options[name]))}"
                )
        said = hashlib.sha256(content + repr((classes, sorted(self.options.items()))).encode()).digest()
        # a tensor, since caches and engines know networks by their tensors
        self.register_buffer("identity", torch.frombuffer(bytearray(said), dtype=torch.uint8))

    def encode(self, frame: Any) -> Any:
        raise VssError("a network of an ONNX file runs on backend openvino or onnxruntime, not in torch")


def parse(content: bytes) -> Any:
    """The ONNX model of a file's content. Raises VssError."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise VssError(missing("onnx")) from error
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and their C++ parts' have no common base
        raise VssError(f"is no valid ONNX file that holds all its weights: {brief(error)}") from None
    return model


def to_stage(network: Imported, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> bytes:
    """The file as the stage `propagate`: frame (1, H, W, 3) uint8 RGB → logits (1, C, h, w) float32.

    mean, std: of RGB in 0–1. Whatever the file's own layout, channels and kind of output, it is said in the graph.
    """
    import onnx.compose
    from onnx import TensorProto, helper, numpy_helper

    model, options = upgraded(parse(network.content)), network.options
    model.ir_version = max(model.ir_version, 4)  # before it weights had to be inputs, too
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    prefix = "own." if any(name.startswith(("in0", "vss_")) for name in names) else ""
    if prefix:
        model = onnx.compose.add_prefix(model, prefix)
    graph = model.graph
    held = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in held]
    entry = named(inputs, options["input"] and prefix + options["input"], "input")
    result = named(list(graph.output), options["output_name"] and prefix + options["output_name"], "output")
    kind = entry.type.tensor_type.elem_type
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("in0", TensorProto.UINT8, [1, *size, 3]))
    del graph.value_info[:]  # stale where the file's own size is another

    def constant(name: str, values: Any, dtype: Any = np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    scale = 1 / (255 * np.asarray(std, np.float64))
    first: list[Any] = []
    last: list[Any] = []
    before = "in0"

    def step(nodes: list[Any], op: str, source: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, source, [name], **attributes))
        return name

    # others take the pixels as they are
    if kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        before = step(first, "Cast", [before], "vss_float", to=TensorProto.FLOAT)
        before = step(first, "Mul", [before, constant("vss_scale", scale)], "vss_scaled")
        before = step(
            first, "Add", [before, constant("vss_shift", -np.asarray(mean) / np.asarray(std))], "vss_normal"
        )
    if options["channels"] == "bgr":
        before = step(
            first, "Gather", [before, constant("vss_bgr", [2, 1, 0], np.int64)], "vss_order", axis=3
        )
    if options["input_layout"] == "nchw":
        before = step(first, "Transpose", [before], "vss_planes", perm=[0, 3, 1, 2])
    step(first, "Cast", [before], entry.name, to=kind)
    nodes = [*first, *graph.node]
    after, kind = result.name, options["output"]
    rank = len(result.type.tensor_type.shape.dim)
    if rank == (2 if kind == "labels" else 3):
        after = step(last, "Unsqueeze", [after, constant("vss_batch", [0], np.int64)], "vss_batched")
    if kind == "labels":
        if rank == 4:  # with a channel: its only one is taken
            axis = 1 if options["output_layout"] == "nchw" else 3
            after = step(last, "Gather", [after, constant("vss_first", 0, np.int64)], "vss_ids", axis=axis)
        after = step(last, "Cast", [after], "vss_whole", to=TensorProto.INT64)
        depth, values = (
            constant("vss_depth", [network.classes], np.int64),
            constant("vss_values", [0, CERTAIN]),
        )
        after = step(last, "OneHot", [after, depth, values], "vss_one_hot", axis=1)
    else:
        after = step(last, "Cast", [after], "vss_out", to=TensorProto.FLOAT)
        if options["output_layout"] == "nhwc":
            after = step(last, "Transpose", [after], "vss_classes", perm=[0, 3, 1, 2])
        if kind.startswith("probabilit"):
            least = constant("vss_least", [LEAST])
            positive = step(last, "Max", [after, least], "vss_positive")
            rest, after = after, step(last, "Log", [positive], "vss_log")
        if kind == "probability":
            rest = step(last, "Sub", [constant("vss_one", [1.0]), rest], "vss_rest")
            rest = step(last, "Log", [step(last, "Max", [rest, least], "vss_rest_positive")], "vss_rest_log")
            after = step(last, "Sub", [after, rest], "vss_logit")
        if kind in ("logit", "probability"):
            zero = step(last, "Sub", [after, after], "vss_zero")
            after = step(last, "Concat", [zero, after], "vss_two", axis=1)
    del graph.node[:]
    graph.node.extend([*nodes, *last])
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(after, TensorProto.FLOAT, [1, network.classes, None, None])
    )
    for i, node in enumerate(graph.node):  # calibration and its report know layers by name
        node.name = node.name or f"{node.op_type}_{i}"
    return with_shapes(model).SerializeToString()


def upgraded(model: Any) -> Any:
    """The model in an opset that INT8 by channel and our own operators are written in; as it is where onnx cannot."""
    import onnx

    held = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), OPSET)
    if held >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's C++ part has errors of every kind
        log.warning("onnx opset %d is not raised to %d (no int8): %s", held, OPSET, brief(error))
        return model


def with_shapes(model: Any) -> Any:
    """The model with the output's size, which follows from the input's; as it is where onnx cannot tell."""
    import onnx

    found = onnx.shape_inference.infer_shapes(model)
    shape = [dim.dim_value for dim in found.graph.output[0].type.tensor_type.shape.dim]
    if len(shape) == 4 and all(shape):
        model.graph.output[0].CopyFrom(found.graph.output[0])
    return model


def narrowed(content: bytes) -> bytes:
    """A stage in float16 but for its ends and what needs range, typed throughout as TensorRT wants it."""
    try:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    except ModuleNotFoundError as error:
        raise VssError(missing("onnxruntime")) from error
    wide = [*DEFAULT_OP_BLOCK_LIST, *WIDE]
    model = convert_float_to_float16(parse(content), keep_io_types=True, op_block_list=wide)
    return model.SerializeToString()


def named(items: list[Any], name: str, what: str) -> Any:
    """The input or output of that name, or the only one."""
    found = [item for item in items if item.name == name or (not name and len(items) == 1)]
    if not found:
        names = ", ".join(item.name for item in items)
        raise VssError(f"onnx: {what}: expected one of {names or 'none: the graph has none'}, got {name!r}")
    return found[0]
