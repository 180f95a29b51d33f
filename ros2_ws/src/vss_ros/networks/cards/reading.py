"""What a network keeps and reads from frame to frame, said without torch: enough to run a model whose stages are
exported already. The networks inherit from these classes; `reading_of` finds the same from a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vss_ros.config import VssError, brief

OFFSETS = (9, 6, 3)
"""Frames back from the target that CFFM and MRCFA read unless told otherwise."""


class Reading:
    """An image network's: nothing is kept. Names as in `networks`.

    from_onnx: whether the network is an ONNX file of its owner's, which torch does not run.
    """

    keeps = 0
    lookahead = 0
    interval = 1
    moves = False
    from_onnx = False

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        return [()]


class OfOnnx(Reading):
    from_onnx = True


class LastKeyframe(Reading):
    """DCFM's: only the last keyframe (and, looking ahead, the next) is ever read."""

    keeps = 1
    interval = 5
    moves = True

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        """The last keyframe (P mode); looking ahead, also the next one, whose logits are added (B mode)."""
        before = [k for k in keys if k <= t]
        after = [k for k in keys if k > t]
        return [(k,) for k in before[-1:] + ([] if t in keys else after[:1])]


class LastTwo(Reading):
    """MSAF's."""

    keeps = 2

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        """The last two remembered frames before t; the older one stands in for one that lacks."""
        past = [k for k in keys if k < t][-2:] or [t]
        return [(past[0], past[-1])]


class Neighbours(Reading):
    """STF's; causal: without the frame after."""

    keeps = 2

    def __init__(self, causal: bool = False):
        self.causal = causal

    @property
    def lookahead(self) -> int:  # type: ignore[override]
        return 0 if self.causal else 1

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        """t−1 and t+1 (causal: t−2 and t−1); the nearest remembered frame stands in for one that lacks."""
        wanted = (t - 2, t - 1) if self.causal else (t - 1, t + 1)
        return [tuple(min(keys, key=lambda key: abs(key - frame)) for frame in wanted)]


class Before(Reading):
    """CFFM's and MRCFA's. offsets: frames back from the target, oldest first."""

    def __init__(self, offsets: Sequence[int] = OFFSETS):
        self.offsets = check_offsets(offsets)

    @property
    def keeps(self) -> int:  # type: ignore[override]
        return self.offsets[0]

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        """t−9, t−6, t−3; where one is not remembered, the next older one, or the oldest."""
        return [
            tuple(max((k for k in keys if k <= t - offset), default=min(keys)) for offset in self.offsets)
        ]


def check_offsets(offsets: Any) -> tuple[int, ...]:
    """Frames back from the target, oldest first. Raises VssError."""
    whole = isinstance(offsets, (list, tuple)) and all(type(offset) is int for offset in offsets)
    if not whole or not offsets or min(offsets) < 1 or list(offsets) != sorted(set(offsets), reverse=True):
        raise VssError(f"offsets: expected frames back, oldest first, as (9, 6, 3); got {brief(offsets)}")
    return tuple(offsets)


def reading_of(network: str, options: Mapping[str, Any]) -> Reading:
    """Of a card's network and options; the same as that of the network built from them."""
    name = network.removeprefix("mar+")
    if name in ("cffm", "mrcfa"):
        return Before(options.get("offsets", OFFSETS))
    if name == "stf":
        return Neighbours(bool(options.get("causal", False)))
    return {"dcfm": LastKeyframe, "msaf": LastTwo, "onnx": OfOnnx}.get(name, Reading)()
