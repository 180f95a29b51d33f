"""Export a network's stages for another runtime: a folder with the files, their shapes and hashes, and a README."""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from vss_ros.backends.onnx_export import CPU_OPSET, TENSORRT_OPSET, to_onnx
from vss_ros.backends.stages import flat_stages, memories_read
from vss_ros.config import VssError, option
from vss_ros.deploy.convert import parse_size
from vss_ros.deploy.export_readme import readme
from vss_ros.media.files import read_yaml, write_atomic
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.options import NetworkConfig, add_options, progress

TARGETS = {"onnx": "onnx", "exported-program": "pt2"}
# greatest difference to torch, relative to the greatest output
TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}
Run = Callable[[str, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class ExportConfig:
    """Options of `vss export`. Of the network with fresh weights: see NetworkConfig."""

    model: str | None = option(None, "name of an installed model or path of a card", kind=str)
    network: str | None = option(None, "with fresh weights: such as dcfm or segformer", kind=str)
    target: str = option("onnx", "kind of files", choices=tuple(TARGETS))
    precision: str = option("f32", "arithmetic of the files", choices=tuple(TOLERANCE))
    opset: int = option(
        TENSORRT_OPSET, f"of ONNX: {TENSORRT_OPSET} for TensorRT, {CPU_OPSET} for CPUs", low=1
    )
    check: bool = option(False, "run the files and compare them with torch")
    out: Path | None = option(None, "folder to write", kind=Path, unset="required")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ExportConfig)
    add_options(parser, NetworkConfig, ("backbone", "classes", "size"))


def main(args: argparse.Namespace) -> int:
    model = load(args)
    stages = flat_stages(model, args.precision)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        write(args, model, stages)
    except OSError as error:
        raise VssError(f"--out {args.out} cannot be written: {error.strerror}") from error
    sys.stdout.write(f"{len(stages)} stages in {args.out}\n")
    if not args.check:
        return 0
    problems = []
    for line, is_problem in check(args.out, model.network, stages):
        sys.stdout.write(f"{'FAIL' if is_problem else 'ok  '} {line}\n")
        problems += [line] if is_problem else []
    if problems:
        raise VssError(f"{len(problems)} checks failed; the files in {args.out} must not be used")
    return 0


def load(args: argparse.Namespace) -> Model:
    size = parse_size(args.size) if args.size else None
    if (args.model is None) == (args.network is None):
        raise VssError("expected either --model (trained weights) or --network (fresh weights)")
    if args.model:
        return open_model(args.model, size)
    if not size:
        raise VssError("--network needs --size HEIGHTxWIDTH")
    return Model(build(args.network, args.backbone, args.classes).eval(), size)


def write(args: argparse.Namespace, model: Model, stages: dict) -> None:
    """Stage files, then the card, the README and, last, bundle.yaml that names them all."""
    network, card = model.network, model.card
    listed: dict[str, Any] = {}
    bar = progress(stages.items(), "exporting", unit="stage")
    for name, (module, inputs) in bar:
        content, names = serialise(args, module, inputs)
        file = f"{name}.{TARGETS[args.target]}"
        write_atomic(args.out / file, content)
        with torch.no_grad():
            outputs = as_tuple(module(*inputs))
        listed[name] = {
            "file": file,
            "sha256": hashlib.sha256(content).hexdigest(),
            "inputs": described(inputs, names[0]),
            "outputs": described(outputs, names[1]),
        }
        bar.write(f"{file}: {len(content) / 1e6:.1f} MB")
    bundle = {
        "model": card.name if card else "fresh weights",
        "network": f"{card.network}-{card.backbone}" if card else f"{args.network}-{args.backbone}",
        "target": args.target,
        "precision": args.precision,
        **({"opset": args.opset} if args.target == "onnx" else {}),
        "size": list(model.size),
        "keeps": network.keeps,
        "interval": network.interval,
        "lookahead": network.lookahead,
        "memories": memories_read(network),
        "stages": listed,
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript")},
    }
    if card:
        text = yaml.safe_dump(asdict(card), sort_keys=False, allow_unicode=True)
        write_atomic(args.out / "model.yaml", text.encode())
    write_atomic(args.out / "README.md", readme(bundle).encode())
    write_atomic(args.out / "bundle.yaml", yaml.safe_dump(bundle, sort_keys=False).encode())


def serialise(
    args: argparse.Namespace, module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[bytes, tuple[list[str], list[str]]]:
    """A stage's file, and the names of its inputs and outputs."""
    if args.target == "onnx":
        import onnx

        content = to_onnx(module, inputs, args.opset)
        graph = onnx.load_from_string(content).graph
        return content, ([item.name for item in graph.input], [item.name for item in graph.output])
    with torch.no_grad():
        program = torch.export.export(module, inputs, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    outs = [str(spec.arg.name) for spec in program.graph_signature.output_specs]
    return buffer.getvalue(), (list(program.graph_signature.user_inputs), outs)  # type: ignore[arg-type]


def described(tensors: Iterable[Tensor], names: list[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in zip(names, tensors, strict=True)
    ]


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def check(folder: Path, network: nn.Module, stages: dict) -> Iterable[tuple[str, bool]]:
    """Lines about the files in a folder and whether each is a problem: hashes, format, a key and a non-key frame."""
    bundle = read_yaml(folder / "bundle.yaml")
    intact = True
    for name, stage in bundle["stages"].items():
        content = (folder / stage["file"]).read_bytes()
        same = hashlib.sha256(content).hexdigest() == stage["sha256"]
        intact &= same
        yield f"{name}: sha256", not same
        if bundle["target"] == "onnx" and same:
            yield from check_onnx(name, content)
    if not intact:
        return
    if bundle["target"] == "onnx" and bundle["precision"] == "bf16":
        yield "not run: ONNX Runtime has no bfloat16 on CPUs", False
        return
    try:
        run = runner(folder, bundle)
        found = frames_of(network, stages, run)
    except Exception as error:  # the runtime's own kind of error
        yield f"the files do not run: {type(error).__name__}: {str(error).splitlines()[0]}", True
        return
    tolerance = TOLERANCE[bundle["precision"]]
    reference = frames_of(network, stages, lambda name, inputs: as_tuple(stages[name][0](*inputs)))
    for kind, expected in reference.items():
        truth, answer = expected.float(), found[kind].float()
        difference = float((answer - truth).abs().max() / truth.abs().max().clamp(min=1e-9))
        line = (
            f"{kind}: differs from torch by {difference:.1e} of the greatest logit (at most {tolerance:.0e})"
        )
        yield line, not difference <= tolerance


def check_onnx(name: str, content: bytes) -> Iterable[tuple[str, bool]]:
    import onnx

    model = onnx.load_from_string(content)
    try:
        onnx.checker.check_model(model, full_check=True)
        yield f"{name}: onnx checker", False
    except Exception as error:  # ValidationError, or the shape inference's own
        yield f"{name}: onnx checker: {str(error).splitlines()[0]}", True
    seen, copies = set(), 0
    for item in model.graph.initializer:
        array = onnx.numpy_helper.to_array(item)
        content_of = (item.data_type, array.shape, array.tobytes())
        copies += content_of in seen
        seen.add(content_of)
    yield f"{name}: {copies} duplicate initialisers", copies > 0


def frames_of(network: nn.Module, stages: dict, run: Run) -> dict[str, Tensor]:
    """Logits of a key frame and of a non-key frame after it, the latter in both ways, computed by `run`."""
    frame = stages["propagate"][1][0]
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, 256, frame.shape, dtype=torch.uint8, generator=generator).to(frame.device)
        for _ in range(2)
    )
    with torch.no_grad():
        if not network.keeps:
            return {"frame": run("propagate", (first,))[0]}
        features = run("encode", (first,))
        memories = run("remember", features) * memories_read(network)
        return {
            "key frame": run("decode", (*features, *memories))[0],
            "non-key frame, by stages": run("decode", (*run("encode", (second,)), *memories))[0],
            "non-key frame, propagated": run("propagate", (second, *memories))[0],
        }


def runner(folder: Path, bundle: dict[str, Any]) -> Run:
    """Runs a stage's file."""
    files = {name: folder / stage["file"] for name, stage in bundle["stages"].items()}
    if bundle["target"] == "onnx":
        return onnx_runner(files)
    programs = {name: torch.export.load(path).module() for name, path in files.items()}
    return lambda name, inputs: as_tuple(programs[name](*inputs))


def onnx_runner(files: dict[str, Path]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in files.items()
    }

    def run(name: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        names = [item.name for item in sessions[name].get_inputs()]
        given = {key: tensor.numpy() for key, tensor in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(array)) for array in sessions[name].run(None, given))

    return run
