"""Figures of quality: IoU and its means, pixel accuracy, video consistency VC_n, flow-warped consistency TC, and of
counts MAE, MSE and NAE as the papers on counting have them.

All shares are in [0, 1]. Label maps are (H, W) or (T, H, W) uint8; 255 in the truth is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from vss_ros.config import VssError

LEAST_SIDE = 16  # DIS of narrower images fails, or ends the process


def confusion(truth: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes + 1) int64 pixel counts: row = truth, column = label; matrices of parts add up.

    Pixels whose truth is not a class are left out. The last column counts labels that are not a class, which are
    wrong wherever there is a truth.
    """
    if truth.shape != labels.shape:
        raise VssError(f"expected labels of the truth's shape {truth.shape}, got {labels.shape}")
    valid = truth < classes
    cells = truth[valid].astype(np.int64) * (classes + 1) + np.minimum(labels[valid], classes)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (classes,); NaN for a class without truth."""
    hit = np.diag(counts).astype(float)
    union = counts.sum(1) + counts[:, : len(counts)].sum(0) - hit
    return np.where(counts.sum(1) > 0, hit / np.maximum(union, 1), np.nan)


def mean_iou(counts: np.ndarray, all_classes: bool = False) -> float:
    """mIoU over the classes that occur in the truth; with `all_classes` (DCFM's code) an absent one counts as 0."""
    scores = iou(counts)
    if all_classes:
        return float(np.nan_to_num(scores).mean())
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def weighted_iou(counts: np.ndarray) -> float:
    """IoU weighted by each class's share of the labelled pixels."""
    pixels = counts.sum(1)
    return float((np.nan_to_num(iou(counts)) * pixels).sum() / max(pixels.sum(), 1))


def pixel_accuracy(counts: np.ndarray) -> float:
    """Share of the labelled pixels that are right."""
    return float(np.diag(counts).sum() / max(counts.sum(), 1))


def video_consistency(
    truth: Sequence[np.ndarray], labels: Sequence[np.ndarray], n: int, convention: str = "code"
) -> list[float]:
    """VC_n of each window of n frames of one video (Miao et al., "VSPW", CVPR 2021).

    Of the pixels whose truth stays the same over the window, the share whose label stays the same, too; whether
    it is right does not matter, and unlabelled pixels count like a class. convention: "code" takes the T − n
    windows of the authors' script, "paper" the T − n + 1 of their formula. A window without such pixels is NaN.
    """
    if convention not in ("code", "paper"):
        raise VssError(f"convention: expected code or paper, got {convention!r}")
    if n < 2 or len(truth) != len(labels):
        raise VssError(
            f"expected n >= 2 and as many label maps as truths, got {n}, {len(labels)}, {len(truth)}"
        )
    values = []
    for end, (stays, same) in enumerate(zip(runs(truth), runs(labels), strict=True)):
        if end >= n - 1:
            constant = stays >= n
            values.append(float((same >= n)[constant].mean()) if constant.any() else float("nan"))
    return values[:-1] if convention == "code" else values


def runs(maps: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """For each map, how many frames up to it each pixel has had its value, (H, W) int32 ≥ 1."""
    before, length = None, None
    for current in maps:
        same = before is not None and before == current
        length = np.ones(current.shape, np.int32) if length is None else np.where(same, length + 1, 1)
        before = current
        yield length


def mean_video_consistency(videos: Sequence[Sequence[float]], convention: str = "code") -> float:
    """mVC_n from each video's VC_n: "code" averages all windows of all videos, "paper" the videos' means."""
    kept = [[v for v in values if v == v] for values in videos]
    kept = [values for values in kept if values]
    if not kept:
        return float("nan")
    if convention == "paper":
        return float(np.mean([np.mean(values) for values in kept]))
    return float(np.mean([v for values in kept for v in values]))


def dis_flow(image: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Optical flow (H, W, 2) float32 in pixels (x, y) from an RGB image to a later one: DIS, medium preset."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = image.shape[:2]
    lacks = (max(LEAST_SIDE - height, 0), max(LEAST_SIDE - width, 0))
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (image, later)]
    gray = [cv2.copyMakeBorder(g, 0, lacks[0], 0, lacks[1], cv2.BORDER_REPLICATE) for g in gray]
    return flow.calc(gray[0], gray[1], np.zeros((*gray[0].shape, 2), np.float32))[:height, :width]


def flow_confusion(labels: np.ndarray, later: np.ndarray, flow: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of a frame's labels with the next frame's, fetched along the flow.

    TC (Liu et al., "ETC", ECCV 2020) is `mean_iou` of the sum over all pairs of frames. Fetched by nearest
    neighbour (the authors' script interpolates class ids); pixels that leave the image are left out.
    """
    height, width = labels.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    place = grid + flow
    fetched = cv2.remap(
        later, place, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255
    )
    inside = (np.rint(place) >= 0).all(-1) & (np.rint(place) < (width, height)).all(-1)
    return confusion(np.where(inside, labels, 255).astype(np.uint8), fetched, classes)


def count_figures(
    truth: Sequence[float] | np.ndarray, found: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """MAE, mean |error|; MSE, square root of the mean squared error, objects both; NAE, mean |error| / truth over
    images that hold any object (0 if none does). Raises VssError for no image or lists of different length."""
    truth, found = np.asarray(truth, float), np.asarray(found, float)
    if not len(truth) or truth.shape != found.shape:
        raise VssError(f"expected a count for each of the images, got {found.shape} for {truth.shape}")
    error, some = np.abs(found - truth), truth > 0
    relative = error[some] / truth[some]
    return {
        "MAE": float(error.mean()),
        "MSE": float(np.sqrt((error**2).mean())),
        "NAE": float(relative.mean()) if some.any() else 0.0,
    }
