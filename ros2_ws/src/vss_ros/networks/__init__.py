"""The networks, one file each; all have the three stages `encode`, `remember`, `decode`.

    encode(frame (B, 3, H, W))       -> features: the cheap part, run on every frame
    remember(features)               -> memory: the part worth reusing, run on keyframes
    decode(features, *memories)      -> logits (B, classes, h, w)
    reads(t, keys)                   -> one tuple of remembered frames a decode pass; logits of passes are added
    loss(batch, **weights)           -> named losses on a clip, "loss" their total
    keeps                            -> how many past remembered frames may still be read; 0: none, an image network;
                                        1: while there is one, it is read, and `reads` is not asked
    lookahead                        -> how many future frames `decode` needs
    interval                         -> frames from one remembered frame to the next, unless the user wants another
    moves (default no)               -> whether a memory is maps (B, h, w, D) to be moved along the optical flow
    last_layer (not MSAF's)          -> name of the layer whose bias the logits have
    steps (default 1)                -> pieces that `remember` is made of, and `remember_part(state, start, stop)` runs

While fewer frames have come than a network reads, the oldest one stands in for those that lack:

    network          interval   decode reads          first frames with a stand-in
    segformer, pspnet       –   nothing               0
    dcfm                    5   last keyframe         0
    msaf                    1   t−2, t−1              2
    cffm, mrcfa             1   t−9, t−6, t−3         9
    stf                     1   t−1, t+1              1, and the last frame of a clip
    stf, causal             1   t−2, t−1              2

A frame is float32 RGB, normalised by the mean and standard deviation of the model card.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vss_ros.config import VssError, brief

if TYPE_CHECKING:  # a card, and a model whose stages are exported already, are read without torch
    from torch import nn

NETWORKS = {
    "cffm": "CFFM",
    "dcfm": "DCFM",
    "iocformer": "IOCFormer",
    "mcis": "MCIS",
    "mrcfa": "MRCFA",
    "msaf": "MSAF",
    "pspnet": "PSPNet",
    "segformer": "SegFormer",
    "stf": "STF",
}
"""File and class of each."""
REFINABLE = ("dcfm", "pspnet", "stf")  # what MAR can wrap, as in its paper's Table 4


def build(name: str, backbone: str, classes: int, /, **options: Any) -> nn.Module:
    """A network with fresh weights, in training mode.

    name: a key of NETWORKS, or "mar+" and one of REFINABLE; backbone: a key of backbones.MIT or backbones.RESNET;
    classes: 1…255; options: those of the network's constructor.
    Raises VssError for names that do not exist or do not go together.
    """
    if name.startswith("mar+") and name[4:] in REFINABLE:
        from vss_ros.networks.mar import MAR

        return MAR(build(name[4:], backbone, classes, **options), classes)
    if name not in NETWORKS:
        known = [*NETWORKS, *(f"mar+{base}" for base in REFINABLE)]
        raise VssError(f"unknown network {name!r}: expected one of {', '.join(known)}")
    if not 1 <= classes <= 255:
        raise VssError(f"classes: expected 1 to 255 (255 marks unlabelled pixels), got {classes}")
    try:
        return class_of(name)(backbone, classes, **options)
    except (TypeError, ValueError, ArithmeticError, AssertionError, MemoryError, RuntimeError) as error:
        raise VssError(f"{name}: cannot be made with options {brief(options)}: {brief(error)}") from error


def class_of(name: str) -> Any:
    """The class of a network, or of the one that MAR wraps; None if there is no such network."""
    file = name.removeprefix("mar+")
    if file not in NETWORKS:
        return None
    return getattr(importlib.import_module(f"{__name__}.{file}"), NETWORKS[file])


def encoder_of(network: Any) -> tuple[str, ...]:
    """How the names begin of what is trained at the encoder's learning rate; a wrapper asks the network in it."""
    held = getattr(network, "network", None) or getattr(network, "pspnet", None)
    return getattr(held if held is not None else network, "encoder", ("backbone.",))


def reads_of(network: Any) -> tuple[int, ...]:
    """Frames that one decode pass reads, relative to its own, where every frame is remembered: (−9, −6, −3), …"""
    t = network.keeps
    return tuple(frame - t for frame in network.reads(t, range(t + network.lookahead + 1))[0])
