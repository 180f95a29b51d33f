"""SegFormer as `save_pretrained` of Hugging Face's transformers writes it: a folder whose config says everything.

config.json holds the network and its classes, preprocessor_config.json size and normalisation, model.safetensors or
pytorch_model.bin the weights. No code of the folder is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError, brief, fits, missing
from vss_ros.media.files import read_bytes
from vss_ros.networks.backbones.mit import HEADS, MIT, REDUCTIONS
from vss_ros.networks.cards.weights import read_state

CONFIG_BYTES = 1 << 20
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SIZE = (512, 512)
"""(height, width) where the folder names none: transformers' own default."""
FIXED = {
    "num_attention_heads": HEADS,
    "sr_ratios": REDUCTIONS,
    "mlp_ratios": (4, 4, 4, 4),
    "patch_sizes": (7, 3, 3, 3),
    "strides": (4, 2, 2, 2),
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "hidden_act": "gelu",
}
"""What all of MiT-B0…B5 share; a config that leaves a field out means these."""
NAMES: list[tuple[str, Any]] = [  # theirs count stages from 0, ours from 1
    (r"^segformer\.encoder\.", "backbone."),
    (r"\.patch_embeddings\.(\d)\.proj\.", lambda m: f".patch_embed{int(m[1]) + 1}.proj."),
    (r"\.patch_embeddings\.(\d)\.layer_norm\.", lambda m: f".patch_embed{int(m[1]) + 1}.norm."),
    (r"\.block\.(\d)\.", lambda m: f".block{int(m[1]) + 1}."),
    (r"^backbone\.layer_norm\.(\d)\.", lambda m: f"backbone.norm{int(m[1]) + 1}."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.", ".mlp.dwconv."),
    (r"^decode_head\.linear_c\.(\d)\.", lambda m: f"head.linear_c{int(m[1]) + 1}."),
    (r"^decode_head\.linear_fuse\.", "head.linear_fuse.conv."),
    (r"^decode_head\.batch_norm\.", "head.linear_fuse.bn."),
    (r"^decode_head\.classifier\.", "linear_pred."),
]


@dataclass(frozen=True)
class Pretrained:
    """What a folder says. backbone: in MIT; width: of the decoder, None of a classifier's folder; classes: names in
    the order of their ids; palette: RGB a class or None; size: (height, width); mean, std: of RGB in 0–1."""

    backbone: str
    width: int | None
    classes: list[str]
    palette: list[list[int]] | None
    size: tuple[int, int]
    mean: list[float]
    std: list[float]


def find_folder(name: str) -> Path:
    """The folder of that path, or of a hub's id such as owner/name, fetched by huggingface_hub. Raises VssError."""
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(name) or Path(name).exists():
        raise VssError(f"{name}: expected a folder with config.json, or a hub's id such as owner/name")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise VssError(f"{name} is no folder; a hub's id {missing('huggingface_hub')}") from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*config.json", WEIGHTS[0]]))
        if not (folder / WEIGHTS[0]).is_file():
            folder = Path(snapshot_download(name, allow_patterns=["*config.json", WEIGHTS[1]]))
    except Exception as error:  # the hub's, the network's and the disk's errors have no common base
        raise VssError(f"{name} is no folder, and cannot be fetched from the hub: {brief(error)}") from None
    return folder


def read_pretrained(folder: Path) -> Pretrained:
    """What config.json and preprocessor_config.json say. Raises VssError naming file and field."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "segformer":
        raise VssError(
            f"{path}: expected model_type segformer, got {brief(repr(config.get('model_type')))}; another "
            "network: export it as ONNX, then `vss import`"
        )
    for name, expected in FIXED.items():
        found = config.get(name, expected)
        if (tuple(found) if isinstance(found, list) else found) != expected:
            raise VssError(f"{path}: {name}: expected {expected}, as in MiT-B0…B5, got {brief(repr(found))}")
    shape = [config.get(name, list(MIT["mit_b0"][i])) for i, name in enumerate(("hidden_sizes", "depths"))]
    backbones = [name for name, known in MIT.items() if [list(part) for part in known] == shape]
    if not backbones:
        raise VssError(f"{path}: hidden_sizes, depths: expected those of MiT-B0…B5, got {brief(repr(shape))}")
    names_of = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if (
        not names_of
        or not fits(names_of, dict[str, str])
        or set(names_of) != {str(i) for i in range(len(names_of))}
    ):
        raise VssError(f"{path}: id2label: expected names of the ids 0, 1, 2, …, got {brief(repr(names_of))}")
    classes = [names_of[str(i)] for i in range(len(names_of))]
    # ids of one name would be one class of the card
    classes = [f"{name} {i}" if classes.index(name) < i else name for i, name in enumerate(classes)]
    palette = config.get("palette")
    if palette is not None and not (fits(palette, list[list[int]]) and len(palette) == len(classes)):
        raise VssError(f"{path}: palette: expected [r, g, b] a class, got {brief(repr(palette))}")
    heads = config.get("architectures") or ["SegformerForSemanticSegmentation"]
    segments = heads == ["SegformerForSemanticSegmentation"]
    width = config.get("decoder_hidden_size", 256) if segments else None
    if width is not None and not (fits(width, int) and 0 < width <= 4096):
        raise VssError(f"{path}: decoder_hidden_size: expected a number up to 4096, got {brief(repr(width))}")
    return Pretrained(backbones[0], width, classes, palette, *read_preprocessor(folder))


def read_preprocessor(folder: Path) -> tuple[tuple[int, int], list[float], list[float]]:
    """Size, mean and std; transformers' defaults where preprocessor_config.json is missing."""
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    size = values.get("size", SIZE[0])  # a number, or a mapping
    edges = size if isinstance(size, dict) else {"shortest_edge": size}
    size = [edges.get(name, edges.get("shortest_edge")) for name in ("height", "width")]
    mean, std = values.get("image_mean", list(IMAGENET_MEAN)), values.get("image_std", list(IMAGENET_STD))
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    right = fits(size, list[int]) and fits(mean, list[float]) and fits(std, list[float])
    if not right or len(mean) != 3 or len(std) != 3 or not fits(factor, float) or not factor > 0:
        raise VssError(f"{path}: expected size, and three numbers each for image_mean and image_std")
    if not values.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    scale = 255 * factor  # theirs: (x · factor − mean) / std; a card's: (x / 255 − mean) / std
    return (size[0], size[1]), [m / scale for m in mean], [s / scale for s in std]


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_bytes(path, CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise VssError(f"{path}: is no JSON file: {brief(error)}") from None
    if not isinstance(values, dict):
        raise VssError(f"{path}: expected a mapping, got {brief(repr(values))}")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors under the names of `networks.SegFormer`. Raises VssError."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"  # of weights in several files
        if (folder / name).is_file():
            return rename(read_state(folder / name))
        if index.is_file():
            parts = read_json(index).get("weight_map", {})
            if not fits(parts, dict[str, str]) or any(Path(part).name != part for part in parts.values()):
                raise VssError(f"{index}: weight_map: expected a file of this folder for each tensor")
            files = [read_state(folder / part) for part in sorted(set(parts.values()))]
            return rename({key: value for tensors in files for key, value in tensors.items()})
    raise VssError(f"{folder}: expected {' or '.join(WEIGHTS)}")


def read_backbone(folder: Path) -> dict[str, Tensor]:
    """The MiT of a SegFormer's or a classifier's folder, under the names of `networks.backbones.MiT`."""
    return {
        name.removeprefix("backbone."): value
        for name, value in read_weights(folder).items()
        if name.startswith("backbone.")
    }


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Theirs keep keys and values apart, which are one layer here."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    for name in [name for name in renamed if ".attn.key." in name]:
        other = name.replace(".key.", ".value.")
        if other not in renamed:
            raise VssError(f"the tensors do not fit the network: {name} has no values beside it")
        renamed[name.replace(".key.", ".kv.")] = torch.cat([renamed.pop(name), renamed.pop(other)])
    return renamed
