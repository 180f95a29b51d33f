"""INT8 calibration of a model on frames of its own camera, with what it costs, layer group by layer group.

A diverse subset of the frames is run as it will be on the robot, K - 1 non-key frames after each keyframe. What the
stages are given there sets the scales; other frames of the subset say how many pixels keep their label. Groups of
layers that cost more than --max-loss stay in floating point. `--precision bf16` only measures, and needs no scales.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.backends import int8_files
from vss_ros.backends.base import Backend
from vss_ros.backends.onnx import OnnxBackend
from vss_ros.backends.onnx_export import export
from vss_ros.config import IGNORE, StreamConfig, VssError, option
from vss_ros.data import metrics
from vss_ros.data.source import open_source
from vss_ros.deploy.convert import parse_size
from vss_ros.deploy.quantize import keep_float, layer_groups, quantise
from vss_ros.media.motion import Motion
from vss_ros.networks.cards.card import ModelCard, read_card, write_card
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.options import DataConfig, NetworkConfig, add_json, add_options, progress
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

log = logging.getLogger(__name__)
Clips = list[list[tuple[np.ndarray, np.ndarray | None]]]
"""Runs of consecutive frames (H, W, 3) uint8, each with its labels (H, W) uint8 or None."""


@dataclass(frozen=True)
class CalibrateConfig:
    """Options of `vss calibrate`."""

    frames: str = option("", "rosbag2, video or folder of images of the camera", unset="required")
    topic: str | None = option(None, "image topic of a rosbag2 that has several", kind=str)
    precision: str = option("int8", "arithmetic to try", choices=("int8", "bf16"))
    clips: int = option(12, "keyframes to calibrate with, and to measure with", low=1)
    interval: int = option(5, "frames from one keyframe to the next", low=1)
    backend: str = option("openvino", "to measure with", choices=("openvino", "onnxruntime"))
    max_loss: float = option(0.002, "share of pixels that a group may change", low=0.0, high=1.0)
    data: str = option("", "labelled data set to measure with, as NAME:SPLIT; adds mIoU")
    out: Path | None = option(None, "folder to write", kind=Path, unset="where precision int8 looks for it")
    write_card: bool = option(False, "note the result in the model's card")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, StreamConfig, ("model",))
    add_options(parser, CalibrateConfig)
    add_options(parser, NetworkConfig, ("size",))
    add_options(parser, DataConfig, ("root",))
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    model = open_model(args.model, parse_size(args.size) if args.size else None)
    card, _ = read_card(args.model)
    if card.task != "segmentation":
        raise VssError(
            f"model {card.name}: its task is {card.task}; only segmentation can be calibrated, take f32"
        )
    plain = []
    if args.precision == "bf16":  # opened before minutes of reading, since not every CPU has it
        plain = [OnnxBackend(model, args.backend, precision) for precision in ("f32", "bf16")]
    calibration, held_out = pick_clips(args)
    measured = labelled_clips(args, card) if args.data else held_out
    if plain:
        video = is_video(measured)
        reference, labels = (run(stream_on(each, args.interval, video), measured) for each in plain)
        report = {"precision": "bf16", **compare(labels, reference, measured, card)}
    else:
        report = calibrate(args, model, card, calibration, measured)
    report["frames"] = sum(map(len, measured))
    report["command"] = "vss calibrate " + shlex.join(sys.argv[2:])
    if args.write_card:
        note(args.model, args.precision, report)
    args.result = report
    sys.stdout.write(table(report))
    return 0


def calibrate(
    args: argparse.Namespace, model: Model, card: ModelCard, clips: Clips, measured: Clips
) -> dict[str, Any]:
    """Quantise, find the groups that cost too much, give them back, write the folder; the report."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(args, model, Path(folder), is_video(clips) and is_video(measured))
        float_labels = run(trial.stream({}), measured)
        log.info("scales of the keyframes' stages from %d keyframes", len(clips))
        seen = trial.record({}, clips)
        models = {
            stage: quantise(trial.models[stage], seen[stage])
            for stage in ("encode", "remember")
            if seen.get(stage)
        }
        log.info("scales of the other stages, which read the quantised memories")
        seen = trial.record(models, clips)
        models |= {
            stage: quantise(trial.models[stage], seen[stage])
            for stage in seen
            if stage not in models and seen[stage]
        }
        groups = {stage: layer_groups(trial.models[stage]) for stage in models}
        losses: dict[str, float] = {}
        names = sorted({g for found in groups.values() for g in found.values()})
        for name in progress(names, "layer groups"):
            alone = without(models, groups, lambda group, name=name: group != name)
            labels = run(trial.stream(alone), measured)
            losses[name] = 1 - compare(labels, float_labels, measured, card)["agreement"]
        kept = sorted(name for name, loss in losses.items() if loss > args.max_loss)
        chosen = without(models, groups, lambda group: group in kept)
        report: dict[str, Any] = {
            "precision": "int8",
            "all_int8": compare(run(trial.stream(models), measured), float_labels, measured, card),
            **compare(run(trial.stream(chosen), measured), float_labels, measured, card),
            "float": compare(float_labels, float_labels, measured, card),
            "kept_in_float": kept,
            "loss_by_group": {
                name: round(losses[name], 5) for name in sorted(losses, key=lambda n: -losses[n])
            },
        }
    out = args.out or int8_files.folder_of(card, model.size)
    report["sha256"] = int8_files.write(out, {**trial.models, **chosen}, card, model.size, report)
    report["written"] = str(out)
    return report


class Trial:
    """Streams over stages of which some are replaced by quantised ones, in a scratch folder.

    OpenVINO computes what is left in float32: it is wrong there for some int8 layers that it gets right in bfloat16,
    and the file must be right on processors with and without bfloat16.
    """

    def __init__(self, args: Any, model: Model, folder: Path, video: bool):
        self.model, self.folder, self.video = model, folder, video
        self.backend, self.interval = args.backend, args.interval
        self.models = export(model, opset=int8_files.OPSET)

    def stream(self, replaced: dict[str, bytes]) -> Stream:
        files = {}
        for stage, model in {**self.models, **replaced}.items():
            files[stage] = self.folder / f"{stage}.onnx"
            files[stage].write_bytes(model)
        return stream_on(OnnxBackend(self.model, self.backend, files=files), self.interval, self.video)

    def record(self, replaced: dict[str, bytes], clips: Clips) -> dict[str, list]:
        """What each stage is given while the clips run."""
        stream = self.stream(replaced)
        seen: dict[str, list] = {stage: [] for stage in stream.backend.stages}
        for stage, compute in stream.backend.stages.items():

            def recorded(*inputs: np.ndarray, compute: Any = compute, kept: list = seen[stage]) -> Any:
                kept.append(inputs)
                return compute(*inputs)

            stream.backend.stages[stage] = recorded
        run(stream, clips)
        return seen


def without(models: dict[str, bytes], groups: dict[str, dict[str, str]], is_float: Any) -> dict[str, bytes]:
    """The quantised stages with the layers whose group is to stay in floating point given back."""
    return {
        stage: keep_float(model, [node for node, group in groups[stage].items() if is_float(group)])
        for stage, model in models.items()
    }


def stream_on(backend: Backend, interval: int, video: bool) -> Stream:
    """As it will run, with memories moved, but without the filter, which would hide what differs."""
    motion = Motion(backend.size) if backend.moves and video else None
    return Stream(backend, FixedInterval(interval), max_gap=0.0, motion=motion)


def is_video(clips: Clips) -> bool:
    """Whether the motion explains the frames of some clip. Of stills, each of which it would make a keyframe, memories
    lie where they are, so that the other stages are seen, too."""

    def follows(clip: Any) -> bool:
        motion = Motion(clip[0][0].shape[:2])
        return all(step is None or step.trusted for step in [motion.step(image) for image, _ in clip])

    return any(map(follows, clips))


def run(stream: Stream, clips: Clips) -> list[np.ndarray]:
    """Labels of every frame at its own size, each clip from a keyframe on."""
    labels = []
    for clip in progress(clips, unit="clip", leave=False):
        stream.reset()
        labels += [result.labels for result in stream.run((image, 0.0) for image, _ in clip)]
    return labels


def compare(labels: list, reference: list, clips: Clips, card: ModelCard) -> dict[str, float]:
    """Share of pixels with the reference's label; mIoU where there are labels."""
    found = {"agreement": float(np.mean([(a == b).mean() for a, b in zip(labels, reference, strict=True)]))}
    truths = [truth for clip in clips for _, truth in clip]
    if any(truth is not None for truth in truths):
        classes = len(card.classes)
        pairs = [(truth, x) for truth, x in zip(truths, labels, strict=True) if truth is not None]
        found["mIoU"] = metrics.mean_iou(
            np.sum([metrics.confusion(truth, x, classes) for truth, x in pairs], axis=0)
        )
    return {name: round(value, 5) for name, value in found.items()}


def pick_clips(args: argparse.Namespace) -> tuple[Clips, Clips]:
    """Two lists of clips spread over what the source shows, taken in turn by greedy farthest-point selection."""
    source = open_source(args.frames, args.topic)
    passes = partial(progress, source, total=source.length, unit="frame")
    looks = np.stack([look(rgb) for rgb, _ in passes("choosing clips")])
    wanted = 2 * args.clips
    starts = farthest(looks[: len(looks) - args.interval + 1], wanted, args.interval)
    if len(starts) < 2:
        raise VssError(
            f"{source.name}: expected at least {2 * args.interval} frames, got {len(looks)}: two clips of "
            f"--interval {args.interval}, one to calibrate and one to measure with"
        )
    if len(starts) < wanted:
        log.warning("%s: has %d clips of %d frames, not %d", source.name, len(starts), args.interval, wanted)
    clip_of = {start + age: n for n, start in enumerate(starts) for age in range(args.interval)}
    clips: Clips = [[] for _ in starts]
    for index, (rgb, _) in enumerate(passes("reading clips")):
        if index in clip_of:
            clips[clip_of[index]].append((rgb.copy(), None))
    return clips[::2], clips[1::2]


def look(rgb: np.ndarray) -> np.ndarray:
    """Layout and colours of a frame in 12×16×3 numbers."""
    return cv2.resize(rgb, (16, 12), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()


def farthest(points: np.ndarray, count: int, apart: int) -> list[int]:
    """Indices of at most `count` points (N, D): the most usual one, then always the one farthest from all chosen.

    Points within `apart` - 1 of a chosen index are left out, so that clips do not overlap.
    """
    chosen: list[int] = []
    distance = np.full(len(points), np.inf)
    free = np.ones(len(points), bool)
    while len(chosen) < count and free.any():
        if chosen:
            index = int(np.where(free, distance, -1).argmax())
        else:
            index = int(np.linalg.norm(points - points.mean(0), axis=1).argmin())
        chosen.append(index)
        free[max(index - apart + 1, 0) : index + apart] = False
        distance = np.minimum(distance, np.linalg.norm(points - points[index], axis=1))
    return chosen


def labelled_clips(args: argparse.Namespace, card: ModelCard) -> Clips:
    """Clips of a data set, spread evenly; their last frame has labels."""
    from vss_ros.data.open import open_labelled
    from vss_ros.evaluate.dataset import check_classes

    name, _, split = args.data.partition(":")
    data = open_labelled(name, split or "test", args.root, card.size)
    check_classes(card, data)
    clips: Clips = []
    for i in np.linspace(0, len(data) - 1, min(args.clips, len(data))).round().astype(int):
        clip = data.clip(int(i), range(1 - args.interval, 1))
        pairs = zip(clip.frames, clip.labels, strict=True)
        clips.append([(np.ascontiguousarray(x), None if (y == IGNORE).all() else y) for x, y in pairs])
    return clips


def note(model: str, precision: str, report: dict[str, Any]) -> None:
    """Keep what was measured in the model's card; precision `auto` reads metrics.bf16.agreement there."""
    card, path = read_card(model)
    names = ("agreement", "mIoU", "kept_in_float", "sha256", "frames", "command")
    card.metrics[precision] = {name: report[name] for name in names if name in report}
    try:
        write_card(card, path)
    except OSError as error:
        raise VssError(
            f"the card {path} cannot be written: {error.strerror}; copy the model first"
        ) from error


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    if "loss_by_group" in report:
        lines += ["pixels that change when only one group of layers is int8:"]
        kept = report["kept_in_float"]
        for name, loss in report["loss_by_group"].items():
            lines.append(f"  {loss:8.3%}  {name}{'  (stays in floating point)' if name in kept else ''}")
        lines.append(f"all layers int8: {figures(report['all_int8'])}")
    lines.append(f"{report['precision']}: {figures(report)} over {report['frames']} frames")
    if "written" in report:
        lines.append(f"written: {report['written']} (sha256 {report['sha256'][:12]})")
    return "\n".join(lines) + "\n"


def figures(found: dict[str, float]) -> str:
    agreement = f"{found['agreement']:.3%} of pixels as in float32"
    return agreement + (f", mIoU {found['mIoU']:.2%}" if "mIoU" in found else "")
