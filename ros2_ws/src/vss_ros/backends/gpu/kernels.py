"""Kernels in Triton for what torch's own would write to memory and read again. Only `fused` imports this, on a GPU.

Channels lie last in every map; sums are in float32 whatever the type of the tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

SHORTEST = tl.constexpr(1e-12)
"""Length that a vector is at least taken for."""


@triton.jit
def depthwise_gelu(
    values,
    weight,
    bias,
    out,
    height,
    width,
    channels: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """GELU of a 3×3 depthwise convolution, zeros around. values, out: (rows, width, channels), rows = images · height;
    weight: (9, channels)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) + tl.zeros_like(column)
    channel = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    wanted = channel < channels
    total = tl.zeros((COLUMNS, DEPTH), tl.float32)
    total += tl.load(bias + channel, mask=wanted, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        y, x = row % height + tap // 3 - 1, column + tap % 3 - 1
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = ((row + tap // 3 - 1) * width + x)[:, None] * channels + channel[None, :]
        value = tl.load(values + place, mask=inside[:, None] & wanted[None, :], other=0.0)
        share = tl.load(weight + tap * channels + channel, mask=wanted, other=0.0)
        total += value.to(tl.float32) * share.to(tl.float32)[None, :]
    total = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    place = (row * width + column)[:, None] * channels + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(column < width)[:, None] & wanted[None, :])


@triton.jit
def fuse_and_classify(
    features, memory, own, hidden, hidden_bias, last, last_bias, out, pixels,
    FEATURES: tl.constexpr, ROUNDED: tl.constexpr, OWN: tl.constexpr, WIDTH: tl.constexpr, CLASSES: tl.constexpr,
    PADDED: tl.constexpr, HIDDEN: tl.constexpr, PIXELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """DCFM's `decode` of `PIXELS` pixels, from their features to their logits.

    features: (pixels, FEATURES), ROUNDED up to a power of 2, of which the first OWN are used; memory: (pixels, WIDTH);
    own: (OWN, WIDTH); hidden: (WIDTH, WIDTH); last: (WIDTH, PADDED), zeros beyond CLASSES; out: (pixels, CLASSES).
    """
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = (pixel < pixels)[:, None]
    every, some, wide = tl.arange(0, ROUNDED), tl.arange(0, OWN), tl.arange(0, WIDTH)
    labels, part = tl.arange(0, PADDED), tl.arange(0, CHUNK)
    kind = features.dtype.element_ty

    there = inside & (every < FEATURES)[None, :]
    whole = tl.load(features + pixel[:, None] * FEATURES + every[None, :], mask=there, other=0.0).to(
        tl.float32
    )
    length = tl.maximum(tl.sqrt(tl.sum(whole * whole, 1)), SHORTEST)
    half = tl.load(features + pixel[:, None] * FEATURES + some[None, :], mask=inside, other=0.0).to(
        tl.float32
    )
    half = (half / length[:, None]).to(kind)
    fused = tl.dot(half, tl.load(own + some[:, None] * WIDTH + wide[None, :]))
    fused += tl.load(memory + pixel[:, None] * WIDTH + wide[None, :], mask=inside, other=0.0).to(tl.float32)
    fused = tl.maximum(fused, 0.0)
    length = tl.maximum(tl.sqrt(tl.sum(fused * fused, 1)), SHORTEST)
    unit = (fused / length[:, None]).to(kind)
    if HIDDEN:
        logits = tl.zeros((PIXELS, PADDED), tl.float32)
        for start in range(0, WIDTH, CHUNK):
            layer = tl.dot(unit, tl.load(hidden + wide[:, None] * WIDTH + (start + part)[None, :]))
            layer = tl.maximum(layer + tl.load(hidden_bias + start + part).to(tl.float32)[None, :], 0.0).to(
                kind
            )
            logits += tl.dot(layer, tl.load(last + (start + part)[:, None] * PADDED + labels[None, :]))
    else:
        logits = tl.dot(unit, tl.load(last + wide[:, None] * PADDED + labels[None, :]))
    logits += tl.load(last_bias + labels).to(tl.float32)[None, :]
    place = pixel[:, None] * CLASSES + labels[None, :]
    tl.store(out + place, logits.to(out.dtype.element_ty), mask=inside & (labels < CLASSES)[None, :])


@triton.jit
def upsampled_argmax(
    logits, out, classes, before_y, before_x, step_c, step_y, step_x, height, width, ratio_y, ratio_x,
    PIXELS: tl.constexpr,
):  # fmt: skip
    """Class of the greatest logit, upsampled bilinearly, of each pixel; the first of equals. ratio: before / after."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < height * width
    y = tl.maximum((pixel // width + 0.5) * ratio_y - 0.5, 0.0)
    x = tl.maximum((pixel % width + 0.5) * ratio_x - 0.5, 0.0)
    top, left = tl.minimum(y.to(tl.int32), before_y - 1), tl.minimum(x.to(tl.int32), before_x - 1)
    down, right = y - top, x - left
    bottom, beside = tl.minimum(top + 1, before_y - 1), tl.minimum(left + 1, before_x - 1)
    best = tl.full((PIXELS,), float("-inf"), tl.float32)
    found = tl.zeros((PIXELS,), tl.int32)
    for label in range(classes):
        plane = logits + label * step_c
        a = tl.load(plane + top * step_y + left * step_x, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(plane + top * step_y + beside * step_x, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(plane + bottom * step_y + left * step_x, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(plane + bottom * step_y + beside * step_x, mask=inside, other=0.0).to(tl.float32)
        value = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)
        better = value > best
        best, found = tl.where(better, value, best), tl.where(better, label, found)
    tl.store(out + pixel, found.to(tl.uint8), mask=inside)


@triton.jit
def moved(values, flow, out, height, width, depth: tl.constexpr, PIXELS: tl.constexpr, DEPTH: tl.constexpr):
    """values at x + flow(x), bilinear, the border replicated. values, out: (height, width, depth); flow: (…, 2)."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)[None, :]
    inside = pixel < height * width
    wanted = inside[:, None] & (channel < depth)
    x = pixel % width + tl.load(flow + 2 * pixel, mask=inside, other=0.0)
    y = pixel // width + tl.load(flow + 2 * pixel + 1, mask=inside, other=0.0)
    x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
    y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
    left, top = x.to(tl.int32), y.to(tl.int32)
    right, bottom = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    a = tl.load(values + (top * width + left)[:, None] * depth + channel, mask=wanted, other=0.0).to(
        tl.float32
    )
    b = tl.load(values + (top * width + right)[:, None] * depth + channel, mask=wanted, other=0.0).to(
        tl.float32
    )
    c = tl.load(values + (bottom * width + left)[:, None] * depth + channel, mask=wanted, other=0.0).to(
        tl.float32
    )
    d = tl.load(values + (bottom * width + right)[:, None] * depth + channel, mask=wanted, other=0.0).to(
        tl.float32
    )
    value = (1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * c + across * d)
    tl.store(out + pixel[:, None] * depth + channel, value.to(out.dtype.element_ty), mask=wanted)
