"""Triton's kernels without a GPU: run by its interpreter against torch's operators, and compiled for GPUs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from fixtures import cuda as expected
from fixtures.cuda import cuda
from fixtures.networks import lively
from vss_ros.backends.gpu import fused
from vss_ros.backends.gpu.torch import TorchCudaBackend
from vss_ros.backends.stages import flat_stages
from vss_ros.networks.cards.model import Model

SHARED = 99 << 10
"""Bytes of shared memory that a program has on the GPUs that have least of it, RTX 30 and 40."""


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton (pip install triton)")
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None,
    reason="needs Triton, and no GPU (tests/conftest.py)",
)


def of(*shape, kind=torch.float16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(kind)


def close(name, *inputs, within=2e-3):
    ours, truth = getattr(fused, name)(*inputs), getattr(expected, name)(*inputs)
    assert ours.shape == truth.shape and ours.dtype == truth.dtype
    assert (ours.float() - truth.float()).abs().max() <= within * truth.float().abs().max()


@interpreted
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("images", "height", "width", "channels"), [(1, 3, 17, 96), (2, 2, 5, 64)])
def test_depthwise_convolution_and_gelu(images, height, width, channels, kind):
    x = of(images, height * width, channels, kind=kind)
    layers = of(9, channels, kind=kind), of(channels, kind=kind)
    close("depthwise_gelu", x, *layers, height, width, within=2e-3 if kind is torch.float16 else 1e-2)


@interpreted
@pytest.mark.parametrize(("classes", "hidden", "width"), [(19, True, 32), (7, False, 32), (7, True, 35)])
def test_fusion_and_classifier(classes, hidden, width):
    """Of 70 pixels, no multiple of a program's; the interpreter multiplies no matrices in bfloat16."""
    features, memory = of(1, 7, 10, width), of(1, 7, 10, 128)
    features[0, 0, 0] = memory[0, 0, 1] = 0  # vectors without a length
    wide = fused.padded(classes)
    last, bias = of(128, wide), of(wide)
    last[:, classes:] = 0
    layers = (of(128, 128) / 8, of(128)) if hidden else (None, None)
    close("fuse_and_classify", features, memory, of(16, 128), *layers, last, bias, classes)


@interpreted
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("before", "after"), [((5, 7), (18, 29)), ((6, 9), (4, 5)), ((1, 1), (3, 2))])
@pytest.mark.parametrize("last", [False, True])
def test_labels_are_those_of_upsampled_logits(before, after, kind, last):
    logits = of(1, 5, *before, kind=kind)
    if last:
        logits = logits.to(memory_format=torch.channels_last)
    ours, truth = fused.upsampled_argmax(logits, *after), expected.upsampled_argmax(logits, *after)
    assert ours.dtype == torch.uint8 and torch.equal(ours, truth)


@interpreted
def test_of_equal_logits_the_first_wins():
    assert not fused.upsampled_argmax(torch.zeros(1, 4, 3, 5), 6, 10).any()


@interpreted
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize("depth", [3, 160])
def test_moved_maps(depth, kind):
    close("moved", of(1, 5, 7, depth, kind=kind), 3 * of(1, 5, 7, 2, kind=torch.float32), within=1e-3)


COMPILE = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vss_ros.backends.gpu import kernels

def source(name, floats, constants, kind):
    kernel = getattr(kernels, name)
    types = {n: "constexpr" if n in constants else floats.get(n, "i32" if n in INTEGERS else "*" + kind)
             for n in kernel.arg_names}
    return ASTSource(kernel, signature=types, constexprs=constants)

INTEGERS = {"height", "width", "pixels", "classes", "before_y", "before_x", "step_c", "step_y", "step_x"}
sizes = {"OWN": 32, "FEATURES": 64, "ROUNDED": 64, "WIDTH": 256, "PIXELS": 64, "CHUNK": 64}
work = [
    ("depthwise_gelu", {}, {"channels": 1280, "COLUMNS": 16, "DEPTH": 64}, {}),
    ("fuse_and_classify", {}, {**sizes, "OWN": 64, "FEATURES": 131, "ROUNDED": 256, "WIDTH": 128, "CLASSES": 11,
      "PADDED": 16, "HIDDEN": True}, {"num_warps": 8, "num_stages": 1}),
    *[("fuse_and_classify", {}, {**sizes, "CLASSES": n, "PADDED": p, "HIDDEN": n == 19},
       {"num_warps": 8, "num_stages": 1}) for n, p in ((19, 32), (124, 128))],
    ("upsampled_argmax", {"out": "*u8", "ratio_y": "fp32", "ratio_x": "fp32"}, {"PIXELS": 256}, {}),
    ("moved", {"flow": "*fp32"}, {"depth": 256, "PIXELS": 16, "DEPTH": 128}, {}),
]
found = {}
for name, floats, constants, options in work:
    for kind in ("fp16", "bf16"):
        made = compile(source(name, floats, constants, kind), target=GPUTarget("cuda", int(sys.argv[1]), 32),
                       options=options)
        found[f"{name} {kind} {constants.get('CLASSES', '')}"] = [made.metadata.shared, len(made.asm["cubin"])]
print(json.dumps(found))
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [87, 89, 90, 110, 120])
def test_kernels_compile_for_what_has_no_gpu_here(capability, tmp_path):
    """Orin, RTX 40, H100, Thor, RTX 50: Triton brings NVIDIA's assembler along."""
    script = tmp_path / "compile_all.py"  # it reads the kernels' sources
    script.write_text(COMPILE)
    command, env = [sys.executable, script, str(capability)], {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 12 and all(size > 1000 for _, size in found.values())
    assert all(shared <= SHARED for shared, _ in found.values()), found


@pytest.mark.parametrize("precision", ["f16", "bf16"])
@pytest.mark.parametrize("backbone", ["mit_b0", "mobilenet_v1", "espnetv2", "resnet18"])
def test_layers_with_kernels_answer_as_those_without(monkeypatch, precision, backbone):
    model, answers = Model(lively("dcfm", backbone), (64, 96)), []
    frame = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    for apart in (False, True):
        if apart:
            monkeypatch.setattr(fused, "take_kernels", lambda network: None)
        stages = flat_stages(model, precision, fused=True)
        with torch.no_grad():
            features = stages["encode"][0](frame)
            answers.append(stages["propagate"][0](frame, *stages["remember"][0](*features)).float())
        layers = [type(m) for m in stages["propagate"][0].modules()]
        assert (fused.Decode in layers) == (not apart and backbone != "resnet18")
        assert (fused.DepthwiseGELU in layers) == (not apart and backbone == "mit_b0")
    error = (answers[0] - answers[1]).abs().max() / answers[1].abs().max()
    assert error <= {"f16": 5e-3, "bf16": 3e-2}[precision]


@pytest.mark.parametrize("fault", ["wrong", "broken"])
def test_kernels_that_fail_or_err_are_not_used(cuda, monkeypatch, caplog, rng, fault):
    def answer(*inputs):
        if fault == "broken":
            raise RuntimeError("PTX was compiled with an unsupported toolchain\nand more")
        return torch.full_like(real(*inputs), 77)

    for name in ("Argmax", "Moved", "DepthwiseGELU", "Decode"):
        real = getattr(fused, name).forward
        monkeypatch.setattr(getattr(fused, name), "forward", answer)
    with caplog.at_level(logging.WARNING):
        backend = TorchCudaBackend(Model(lively("dcfm", "mit_b0"), (64, 96)), "f16")
    assert sum("operator by operator, which is slower" in text for text in caplog.messages) == 2
    frame = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    memory = backend.remember(backend.encode(frame))
    found = backend.labels([backend.propagate(frame, [memory])], (64, 96))
    assert len(np.unique(found)) > 1 and found.max() < 7
