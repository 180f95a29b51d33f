"""Published weights → our networks: the authors' checkpoints by name, ImageNet weights for the backbones."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError
from vss_ros.networks.backbones import ESPNet, MiT, MobileNet

# buffers that count training steps or follow from the window size
DERIVED = ("num_batches_tracked", "relative_position_index", "valid_ind_rolled")


def from_authors(name: str, backbone: str, classes: int, tensors: Mapping[str, Any]) -> nn.Module:
    """Network in inference mode with the weights of the authors' checkpoint.

    tensors: the authors' tensor name → array or tensor. Raises VssError that lists missing, unexpected and
    misshapen names (the authors' ones).
    """
    from vss_ros.networks import build

    tensors = {without_wrapper(key): value for key, value in tensors.items()}
    network = build(name, backbone, classes, **authors_options(name, tensors))
    load_renamed(network, tensors, authors_names(name))
    return network.eval()


def authors_options(name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the network's constructor that follow from the authors' tensors."""
    options = getattr(module_of(name), "authors_options", None)
    return options({without_wrapper(key): value for key, value in tensors.items()}) if options else {}


def authors_names(name: str) -> list[tuple[str, str | None]]:
    """Pairs of (authors' prefix, ours) for a network; None: not used by inference."""
    if name in ("mar+pspnet", "mar+stf"):
        inner = authors_names(name[4:])
        return [("MAR.", "mar."), *((theirs, ours and f"network.{ours}") for theirs, ours in inner)]
    names = getattr(module_of(name), "AUTHORS_NAMES", None)
    if names is None or name.startswith("mar+"):
        raise VssError(f"{name}: no checkpoint of its authors is known; train it with `vss train`")
    return names


def module_of(name: str) -> Any:
    """The file of a network, or of the one that MAR wraps; None if there is no such network."""
    from vss_ros.networks import class_of

    network = class_of(name)
    return network and sys.modules[network.__module__]


def load_renamed(network: nn.Module, tensors: Mapping[str, Any], names: list[tuple[str, str | None]]) -> None:
    """Load tensors whose names start with other prefixes; the first fitting (theirs, ours) pair renames."""
    expected = {k: v for k, v in network.state_dict().items() if not is_derived(k)}
    state: dict[str, Tensor] = {}
    unexpected, misshapen = [], []
    for key, value in tensors.items():
        if is_derived(key):
            continue
        theirs, ours = next(((a, b) for a, b in names if key.startswith(a)), (key, key))
        if ours is None:
            continue
        target = ours + key[len(theirs) :]
        value = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
        if target not in expected:
            unexpected.append(key)
        elif value.shape != expected[target].shape:
            misshapen.append(f"{key}: expected {tuple(expected[target].shape)}, got {tuple(value.shape)}")
        else:
            state[target] = value
    broken = {line.split(":")[0] for line in misshapen}
    present = set(state) | {rename(key, names) for key in broken}
    missing = [unrename(key, names) for key in expected if key not in present]
    if missing or unexpected or misshapen:
        raise VssError(
            "the tensors do not fit the network"
            + listing("missing", missing)
            + listing("unexpected", unexpected)
            + listing("misshapen", misshapen)
        )
    network.load_state_dict(state, strict=False)


def load_imagenet(network: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Load ImageNet weights into a network's backbone: SegFormer's `mit_b*.pth`, torchvision's or semseg's ResNets,
    Google's MobileNetV1 (1.0, 224) under Keras' names; and EdgeNets' ESPNetv2 (s = 2.0) with its Cityscapes decoder.

    torchvision's ResNet-50/101 have the plain stem: build the network on `resnet50_plain` or `resnet101_plain`.
    """
    names: list[tuple[str, str | None]]
    # STF and MAR hold a network that has it
    backbone: Any = next(part for name, part in network.named_modules() if name.endswith("backbone"))
    if isinstance(backbone, MiT):
        names = [("head.", None)]
    elif isinstance(backbone, MobileNet):
        fresh = {key: value for key, value in backbone.state_dict().items() if key.startswith("ppm.")}
        tensors = {**fresh, **with_our_input({key: torch.as_tensor(t) for key, t in tensors.items()})}
        last = backbone.ends[-1]
        names = [("conv_preds", None)]
        names += [(f"conv_{kind}_{i}", None) for i in range(last + 1, 14) for kind in ("dw", "pw")]
    elif isinstance(backbone, ESPNet):
        # what is at stride 2, and an activation that their units to half the size hold and never use
        names = [("bu_dec_l4.", None), ("merge_enc_dec_l4.", None), ("bu_br_l4.", None)]
        names += [(f"base_net.level{i}_0.eesp.module_act.", None) for i in (2, 3, 4)]
        tensors = {with_named_layers(key): tensor for key, tensor in tensors.items()}
    else:
        names = [("fc.", None), ("classifier.", None)]  # of torchvision's ResNets and VGGs
        # plain: conv, bn; deep: three times conv, bn, relu
        stem = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
        names += [(f"{theirs}.", f"layer0.{index}.") for theirs, index in stem.items()]
        names += [("stem.", "layer0.")]  # mmclassification's ResNetV1c
    load_renamed(backbone, tensors, names)


def with_our_input(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MobileNet's weights for RGB normalised as here; theirs are for RGB / 127.5 - 1.

    Theirs is scale · ours + shift in each channel: the scale goes into the first convolution, the shift's answer
    into the running mean of its batch norm. Exact but for the outermost pixels, where both pad with zeros.
    """
    scale, shift = 2 * torch.tensor(IMAGENET_STD), 2 * torch.tensor(IMAGENET_MEAN) - 1
    first = {
        name: tensors[name].float() for name in ("conv1.weight", "conv1_bn.running_mean") if name in tensors
    }
    if [tuple(tensor.shape) for tensor in first.values()] != [(32, 3, 3, 3), (32,)]:
        return dict(tensors)  # another network's, which loading them says
    weight, mean = first.values()
    ours = {"conv1.weight": weight * scale[:, None, None]}
    ours["conv1_bn.running_mean"] = mean - weight.sum((2, 3)) @ shift
    return {**tensors, **ours}


def with_named_layers(key: str) -> str:
    """ESPNetv2's decoder numbers the layers that its encoder calls conv, bn and act."""
    names = {"cbr.0": "conv", "cbr.1": "bn", "cbr.2": "act", "br.0": "bn", "br.1": "act"}
    key = re.sub(r"(?<=\.)(cbr\.[012]|br\.[01])(?=\.)", lambda found: names[found[0]], key)
    return re.sub(r"^(bu_br_l\d\.)([01])", lambda found: found[1] + ("bn", "act")[int(found[2])], key)


def is_derived(key: str) -> bool:
    return any(word in key for word in DERIVED)


def without_wrapper(key: str) -> str:
    """Name without the `module` that distributed training puts around a network."""
    return ".".join(part for part in key.split(".") if part != "module")


def rename(key: str, names: list[tuple[str, str | None]]) -> str:
    for theirs, ours in names:
        if ours is not None and key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def unrename(key: str, names: list[tuple[str, str | None]]) -> str:
    """Name that the authors give to our tensor `key`: the one that `rename` maps back to it."""
    for theirs, ours in names:
        if ours is not None and key.startswith(ours):
            original = theirs + key[len(ours) :]
            if rename(original, names) == key:
                return original
    return key


def listing(title: str, names: list[str]) -> str:
    return f"\n{title} ({len(names)}): {', '.join(names)}" if names else ""
