"""The README of an exported bundle: what the stages are, and how to make TensorRT engines of them on each JetPack."""

from __future__ import annotations

from typing import Any

# name, TensorRT, trtexec, options beyond the files'
PLATFORMS = [
    ("JetPack 6.1 and 6.2 (Orin)", "10.3", "/usr/src/tensorrt/bin/trtexec", "--stronglyTyped"),
    ("JetPack 7.0 and 7.1 (Thor)", "10.13", "/usr/src/tensorrt/bin/trtexec", "--stronglyTyped"),
    ("JetPack 7.2 (Orin, Thor)", "10.16", "/usr/src/tensorrt/bin/trtexec", "--stronglyTyped"),
    ("JetPack 7.2.2 and later (Orin, Thor)", "11", "/usr/src/tensorrt/bin/trtexec", ""),
    ("Desktop GPU", "10", "trtexec", "--stronglyTyped"),
    ("Desktop GPU", "11", "trtexec", ""),
]
NEXT = {
    "encode": "frame (1, H, W, 3) uint8 RGB → features; normalises inside",
    "remember": "features → memory, on keyframes",
    "decode": "features, then each memory → logits",
    "propagate": "frame, then each memory → logits: `encode` and `decode` in one, for a frame that is not remembered",
}


def readme(bundle: dict[str, Any]) -> str:
    """Text for the bundle that bundle.yaml describes."""
    height, width = bundle["size"]
    lines = [
        f"# {bundle['network']} for {bundle['target']}, {width}×{height}, {bundle['precision']}",
        "",
        f"Weights: {bundle['model']}. Shapes, types and hashes of every file stand in bundle.yaml.",
        "",
    ]
    lines += [f"- `{stage['file']}`: {NEXT[name]}" for name, stage in bundle["stages"].items()]
    lines += ["", *schedule(bundle)]
    if bundle["target"] == "onnx":
        lines += ["", *trtexec(bundle)]
    return "\n".join(lines) + "\n"


def schedule(bundle: dict[str, Any]) -> list[str]:
    last = "Then resize the logits bilinearly (half-pixel centres) to the frame and take the greatest."
    if not bundle["keeps"]:
        return [f"Every frame: `propagate`. {last}"]
    return [
        f"Keyframes, every {bundle['interval']} frames, run `encode`, `remember`, `decode`; the others `propagate`.",
        f"Memories read at a time: {bundle['memories']}; at the start the oldest is repeated. {last}",
    ]


def trtexec(bundle: dict[str, Any]) -> list[str]:
    lines = [
        "## TensorRT engines",
        "",
        "Build on the machine that will run them: an engine serves one GPU model and one TensorRT release. The types",
        "stand in the files, so no `--fp16`, `--bf16` or `--int8` is given.",
    ]
    for name, release, program, options in PLATFORMS:
        lines += ["", f"{name}, TensorRT {release}:", "```"]
        command = (
            f"{program} --onnx=$s.onnx --saveEngine=$s.plan --timingCacheFile=timing.cache {options}".rstrip()
        )
        lines += [f"for s in {' '.join(bundle['stages'])}; do", f"  {command}", "done"]
        lines.append("```")
    lines += ["", "JetPack 5 has TensorRT 8, which these files are too new for.", ""]
    lines += ["Time of an engine: `trtexec --loadEngine=propagate.plan --useCudaGraph --noDataTransfers`."]
    return lines
