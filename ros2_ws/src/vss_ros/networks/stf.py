"""STF: spatial-temporal fusion of three frames' PSPNet features by interlaced cross-self attention (ICSA).

Paper: "Video Semantic Segmentation with Inter-Frame Feature Fusion and Inner-Frame Feature Refinement",
section 3.2. The middle of three frames is segmented, so the answer is one frame late; with `causal` the last
of three is, without delay.

Deviation: maps whose sides are no multiple of a block's 16 are padded; the authors' sizes always are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.networks.cards.reading import Neighbours
from vss_ros.networks.losses import cross_entropy
from vss_ros.networks.pspnet import MMSEGMENTATION_NAMES, PSPNet

BLOCK = 16


class ICSA(nn.Module):
    """Attention over long range (equal positions in all blocks and frames), then over short (all of one block).

    query: (B, t, h, w, C) with its position; key, value: (B, T, h, w, C); h and w multiples of 16.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.self_attn_long = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.self_attn_short = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, position: Tensor) -> Tensor:
        shape = query.shape
        x = self.self_attn_long(across(query), across(key), across(value), need_weights=False)[0]
        x = unacross(x, shape)
        placed = within(x + position)
        x = self.self_attn_short(placed, placed, within(x), need_weights=False)[0]
        return unwithin(x, shape)


class Layer(nn.Module):
    """Transformer layer with ICSA; with `cross` it also attends to a memory (post-norm)."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, cross: bool):
        super().__init__()
        self.self_attn = ICSA(dim, heads, dropout)
        self.multihead_attn = ICSA(dim, heads, dropout) if cross else None
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        norms = 3 if cross else 2
        for i in range(norms):
            self.add_module(f"norm{i + 1}", nn.LayerNorm(dim))
        self.last_norm = f"norm{norms}"
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor | None = None, memory_position: Tensor | None = None
    ) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.dropout(self.self_attn(placed, placed, x, position)))
        if self.multihead_attn is not None and memory is not None:
            found = self.multihead_attn(x + position, memory + memory_position, memory, position)
            x = self.norm2(x + self.dropout(found))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return getattr(self, self.last_norm)(x + self.dropout(y))


class Fusion(nn.Module):
    """Three frames' features (B, 512, h, w) → feature of the one at `target`."""

    def __init__(self, dim: int, grid: Sequence[int], target: int, heads: int = 2, dropout: float = 0.1):
        super().__init__()
        self.target = target
        self.pe_enc = nn.Parameter(torch.rand(1, dim, 3, *grid))
        self.pe_dec = nn.Parameter(torch.rand(1, dim, 1, *grid))
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList([Layer(dim, heads, 256, dropout, cross=False)])}
        )
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList([Layer(dim, heads, 256, dropout, cross=True)])})
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, frames: Sequence[Tensor]) -> Tensor:
        height, width = frames[0].shape[-2:]
        pad = (0, -width % BLOCK, 0, -height % BLOCK)
        x = torch.stack([F.pad(frame, pad) for frame in frames], 1).permute(0, 1, 3, 4, 2)  # (B, 3, h, w, C)
        grid = (x.shape[2], x.shape[3])
        encoding, decoding = resized(self.pe_enc, grid), resized(self.pe_dec, grid)
        memory = x
        for layer in self.encoder["layers"]:
            memory = layer(memory, encoding)
        y = x[:, self.target : self.target + 1]
        for layer in self.decoder["layers"]:
            y = layer(y, decoding, memory, encoding)
        return y[:, 0].permute(0, 3, 1, 2)[..., :height, :width]


class STF(nn.Module, Neighbours):
    """Memory of a frame: its PSPNet feature, (B, 512, H/8, W/8)."""

    last_layer = "pspnet.classifier"

    def __init__(
        self,
        name: str,
        classes: int,
        causal: bool = False,
        grid: Sequence[int] = (128, 256),
        dropout: float = 0.1,
    ):
        super().__init__()
        self.causal = causal
        self.pspnet = PSPNet(name, classes)
        self.width = self.pspnet.width
        self.stf = Fusion(self.width, grid, target=2 if causal else 1, dropout=dropout)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → PSPNet feature (B, 512, H/8, W/8)."""
        return self.pspnet.encode(frame)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (features[0],)

    def fuse(self, features: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """first, second: memories of t−1 and t+1, or, causal, of t−2 and t−1."""
        if self.causal:
            return self.stf([first[0], second[0], features[0]])
        return self.stf([first[0], features[0], second[0]])

    def classify(self, fused: Tensor) -> Tensor:
        return self.pspnet.classify(fused)

    def decode(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        """→ logits (B, classes, H/8, W/8)."""
        return self.classify(self.fuse(features, *memories))

    def target(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fused feature and labels of the target among frames (B, 3, 3, H, W), oldest first."""
        frames = batch["frames"]
        features = self.encode(frames.flatten(0, 1))[0].unflatten(0, frames.shape[:2])
        return self.stf([features[:, i] for i in range(3)]), batch["labels"][:, self.stf.target]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of the target."""
        fused, labels = self.target(batch)
        return {"loss": cross_entropy(self.classify(fused), labels)}


def across(x: Tensor) -> Tensor:
    """(B, t, h, w, C) → (B·256, t·blocks, C): one sequence for each position in a block."""
    batch, frames, height, width, dim = x.shape
    x = x.reshape(batch, frames, height // BLOCK, BLOCK, width // BLOCK, BLOCK, dim)
    return x.permute(0, 3, 5, 1, 2, 4, 6).reshape(batch * BLOCK**2, -1, dim)


def unacross(x: Tensor, shape: Sequence[int]) -> Tensor:
    batch, frames, height, width, dim = shape
    x = x.reshape(batch, BLOCK, BLOCK, frames, height // BLOCK, width // BLOCK, dim)
    return x.permute(0, 3, 4, 1, 5, 2, 6).reshape(shape)


def within(x: Tensor) -> Tensor:
    """(B, t, h, w, C) → (B·blocks, t·256, C): one sequence for each block."""
    batch, frames, height, width, dim = x.shape
    x = x.reshape(batch, frames, height // BLOCK, BLOCK, width // BLOCK, BLOCK, dim)
    return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, frames * BLOCK**2, dim)


def unwithin(x: Tensor, shape: Sequence[int]) -> Tensor:
    batch, frames, height, width, dim = shape
    x = x.reshape(batch, height // BLOCK, width // BLOCK, frames, BLOCK, BLOCK, dim)
    return x.permute(0, 3, 1, 4, 2, 5, 6).reshape(shape)


def resized(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Learned position (1, C, T, h, w) on another grid, channels last.

    The authors resize trilinearly; with as many frames before as after that is bilinear in each frame.
    """
    frames = position.shape[2]
    flat = F.interpolate(position.flatten(1, 2), size=grid, mode="bilinear", align_corners=False)
    return flat.unflatten(1, (-1, frames)).permute(0, 2, 3, 4, 1)


def authors_options(tensors: dict) -> dict:
    """The grid of the learned positions; it need not be that of the frames."""
    return {"grid": list(tensors["STF.pe_enc"].shape[-2:])} if "STF.pe_enc" in tensors else {}


AUTHORS_NAMES = [
    ("STF.", "stf."),
    *((f"pspnet.{theirs}", ours and f"pspnet.{ours}") for theirs, ours in MMSEGMENTATION_NAMES),
]
