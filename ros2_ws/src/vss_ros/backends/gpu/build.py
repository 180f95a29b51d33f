"""Builds TensorRT engines of a network's stages: by torch-tensorrt, or from ONNX by TensorRT's own parser.

The precision stands in the graph (see `typed`), so networks are strongly typed with every release: TensorRT 11 knows
nothing else, and before it the weakly typed way (`enabled_precisions` with several types) would be free to compute
softmax and LayerNorm in 16 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.versions import Versions, builder, load_tensorrt, numbers, probe
from vss_ros.backends.stages import fingerprint, flat_stages, stage_names
from vss_ros.config import VssError
from vss_ros.networks.cards.imported import Imported, narrowed, to_stage
from vss_ros.networks.cards.model import Model

PRECISIONS = ("f32", "f16", "bf16")


def engine_keys(model: Model, precision: str) -> dict[str, engines.Key]:
    """Cache key of every stage on this machine. Raises VssError where TensorRT cannot run."""
    machine, weights = machine_key(), fingerprint(model)
    calibration = model.calibration.sha256 if model.calibration and precision == "int8" else ""
    if precision == "int8" and not calibration:
        raise VssError("precision int8: backend tensorrt needs a calibration (vss calibrate)")
    return {
        stage: engines.Key(
            weights=weights,
            network=type(model.network).__name__,
            stage=stage,
            size=f"{model.size[0]}x{model.size[1]}",
            precision=precision,
            calibration=calibration,
            **machine,
        )
        for stage in (model.calibration.files if model.calibration and calibration else stage_names(model))
    }


def machine_key() -> dict[str, str]:
    """The fields of a key that this machine decides. Raises VssError where TensorRT cannot run."""
    found = probe()
    kind = builder(found)
    release = found.torch_tensorrt if kind == "torch-tensorrt" else found.torch
    return {"builder": f"{kind} {release}", "tensorrt": found.tensorrt, "gpu": found.gpu}


@dataclass(frozen=True)
class Job:
    """An engine to be built. operators: of its graph, a measure of the time; memory: bytes on the GPU, a guess."""

    operators: int
    memory: int
    make: Callable[[], bytes]


def jobs(model: Model, precision: str) -> dict[str, Job]:
    """What builds each stage's engine. Raises VssError where that is impossible."""
    if precision == "int8" and model.calibration:
        return onnx_jobs({stage: path.read_bytes() for stage, path in model.calibration.files.items()})
    if precision not in PRECISIONS:
        raise VssError(f"precision {precision}: backend tensorrt builds {', '.join(PRECISIONS)}")
    builder(probe())  # before the minutes of work below
    if isinstance(model.network, Imported):
        content = to_stage(model.network, model.size, model.mean, model.std)
        if precision == "bf16":
            raise VssError("precision bf16: of an ONNX file TensorRT builds f32, f16 or int8")
        return onnx_jobs({"propagate": narrowed(content) if precision == "f16" else content})
    model.network.to("cuda")
    return {
        name: job_of(program, partial(make_engine, program, inputs))
        for name, (program, inputs) in exported(model, precision).items()
    }


def onnx_jobs(stages: Mapping[str, bytes]) -> dict[str, Job]:
    """What builds the engines of ONNX files in which every type stands: those of `vss calibrate`, and imported ones."""
    import onnx

    found = probe()
    builder(found)
    work = {}
    for stage, content in stages.items():
        operators = len(onnx.load_from_string(content).graph.node)
        work[stage] = Job(operators, 4 * len(content) + (2 << 30), partial(parsed, content, found))
    return work


@torch.no_grad()
def exported(model: Model, precision: str) -> dict[str, tuple[ExportedProgram, tuple[Tensor, ...]]]:
    """torch.export of every stage, with its example inputs."""
    return {
        name: (torch.export.export(module, inputs, strict=False), inputs)
        for name, (module, inputs) in flat_stages(model, precision).items()
    }


def job_of(program: ExportedProgram, make: Callable[[], bytes]) -> Job:
    """Memory: the weights, while they are moved into the engine, and the widest operator, tried in several ways."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    widest = max((bytes_of(node) + sum(map(bytes_of, node.all_input_nodes)) for node in calls), default=0)
    return Job(len(calls), 3 * weights + 4 * widest + (1 << 30), make)


def bytes_of(node: torch.fx.Node) -> int:
    value = node.meta.get("val")
    return sum(
        t.nbytes for t in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(t, Tensor)
    )


def make_engine(program: ExportedProgram, inputs: tuple[Tensor, ...]) -> bytes:
    """The engine of an exported stage (see `pack`), built on this machine's GPU. Raises VssError."""
    found = probe()
    make = from_torch if builder(found) == "torch-tensorrt" else from_onnx
    return make(program, inputs, found)


@torch.no_grad()
def from_torch(program: ExportedProgram, inputs: tuple[Tensor, ...], found: Versions) -> bytes:
    import torch_tensorrt

    engines.make_dir()  # holds the timing cache
    compiled = torch_tensorrt.dynamo.compile(program, inputs=list(inputs), **compile_options(found))
    return pack(*bindings(compiled))


def compile_options(found: Versions) -> dict[str, Any]:
    """Arguments of `torch_tensorrt.dynamo.compile` for static shapes and one engine, by its release."""
    options: dict[str, Any] = {
        "require_full_compilation": True,
        "min_block_size": 1,
        "timing_cache_path": str(timing_cache(found)),
    }
    if numbers(found.torch_tensorrt) <= (2, 12):
        # with explicit typing these releases accept no other set of precisions
        options |= {"use_explicit_typing": True, "enabled_precisions": {torch.float32}}
    return options


def bindings(compiled: Any) -> tuple[list[str], list[str], bytes]:
    """Names of the inputs ("": unused) and outputs of a compiled module, in order, and its only engine.

    A stage that hands its inputs through (STF's `remember`) has none; its outputs have their inputs' names.
    """
    nodes = list(compiled.graph.nodes)
    given = [node.name for node in nodes if node.op == "placeholder"]
    calls = [node for node in nodes if node.op == "call_module"]
    results = nodes[-1].args[0] if isinstance(nodes[-1].args[0], (tuple, list)) else nodes[-1].args
    if not calls:
        return given, [node.name for node in results], b""
    if len(calls) > 1:
        raise VssError(
            f"TensorRT took the stage in {len(calls)} parts, expected one engine: report it with the log"
        )
    engine = getattr(compiled, calls[0].target)
    used = {node.name: name for node, name in zip(calls[0].args, engine.input_binding_names, strict=True)}
    # the others are getitem(call, place)
    places = [0 if node is calls[0] else node.args[1] for node in results]
    outputs = [engine.output_binding_names[place] for place in places]
    return [used.get(name, "") for name in given], outputs, bytes(engine.serialized_engine)


def from_onnx(program: ExportedProgram, inputs: tuple[Tensor, ...], found: Versions) -> bytes:
    from vss_ros.backends.onnx_export import TENSORRT_OPSET, to_onnx

    return parsed(to_onnx(program, inputs, TENSORRT_OPSET), found)


def parsed(content: bytes, found: Versions) -> bytes:
    """The engine of an ONNX model, by TensorRT's own parser."""
    trt = load_tensorrt()
    engines.make_dir()  # holds the timing cache
    logger = trt.Logger(trt.Logger.WARNING)
    maker = trt.Builder(logger)
    # TensorRT 11 knows nothing else, and may no longer have the flag
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = maker.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise VssError(f"TensorRT {found.tensorrt} cannot read the stage: {reasons}")
    config = maker.create_builder_config()
    path = timing_cache(found)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=True)
    plan = maker.build_serialized_network(network, config)
    if plan is None:
        raise VssError(f"TensorRT {found.tensorrt} could not build the stage: its log above says why")
    engines.write_private(path, bytes(config.get_timing_cache().serialize()))
    inputs = [network.get_input(i).name for i in range(network.num_inputs)]
    return pack(inputs, [network.get_output(i).name for i in range(network.num_outputs)], bytes(plan))


def timing_cache(found: Versions) -> Path:
    """TensorRT's measurements of kernels on this GPU, which make the next build of a similar engine faster."""
    gpu = re.sub(r"\W+", "-", found.gpu)
    return engines.engine_dir() / f"timing-{found.tensorrt}-{gpu}.cache"


def pack(inputs: list[str], outputs: list[str], plan: bytes) -> bytes:
    """An engine and the order of its inputs and outputs, which TensorRT knows by name only."""
    return json.dumps([inputs, outputs]).encode() + b"\n" + plan


def unpack(content: bytes) -> tuple[list[str], list[str], bytes]:
    line, _, plan = content.partition(b"\n")
    inputs, outputs = json.loads(line)
    return inputs, outputs, plan
