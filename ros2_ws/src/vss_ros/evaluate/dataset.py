"""Accuracy, temporal consistency and time of a model on a data set, through the same stream as the ROS node's.

Every keyframe policy, setting of it (interval K or threshold) and mode (P: the last keyframe; B: also the next,
offline) gives a row. Sparse labels (CamVid train and test, Cityscapes) follow the papers: each labelled frame is
answered at every age 0…K-1 of its keyframe, all pooled in one confusion matrix. Videos with all of their frames
labelled run once and also give VC_8, VC_16 and TC, and, with --streaming, the accuracy of what is out when a frame
comes: see `streamed`. Those with frames between the labels give TC.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import StreamConfig, VssError, option
from vss_ros.data import metrics
from vss_ros.data.figures import heading, shown
from vss_ros.data.open import open_labelled
from vss_ros.data.recordings import Frame
from vss_ros.evaluate import counting, recordings
from vss_ros.evaluate.scores import WINDOWS, Scores, Times, answers
from vss_ros.evaluate.settings import LONGEST, POLICIES, STREAM_OPTIONS, flattery, variants
from vss_ros.evaluate.similarity import similarity, similarity_table
from vss_ros.evaluate.tradeoff import draw_tradeoff
from vss_ros.evaluate.worst import Answer, draw, keep_worst
from vss_ros.media.draw import write_image
from vss_ros.networks.cards.card import read_card
from vss_ros.options import DataConfig, add_json, add_options, progress
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.load import load_stream
from vss_ros.stream.schedule import check_delay
from vss_ros.stream.stream import Stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of `vss evaluate`, beside those of the stream, the data set and recordings."""

    model: str = option("street", "name of a model in models/, or the path of a card")
    policy: str = option("fixed", f"keyframe policies with commas: {', '.join(POLICIES)}")
    k: str = option("", "keyframe intervals of policy fixed", unset="1,2,3,5; with --bag the network's own")
    thresholds: str = option("0.2,0.3,0.5", "thresholds of policy adaptive")
    drifts: str = option("0.03,0.06,0.12", "thresholds of policy consistency")
    mode: str = option("P", "P, B or P,B: the last keyframe, or also the next, offline")
    streaming: bool = option(
        False,
        "dense videos: also the accuracy of what is out at each frame's time, at this machine's speed",
    )
    all_classes: bool = option(False, "mIoU counts absent classes as 0")
    similarity: int = option(0, "DCFM: compare features of frames up to so many apart; 0: no", low=0, high=99)
    out: Path = option(Path("runs/evaluate"), "folder of the table, its JSON and the worst frames")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, EvaluateConfig)
    add_json(parser)
    add_options(parser, DataConfig)
    add_options(parser, StreamConfig, ("min_interval", "max_interval", *STREAM_OPTIONS), max_interval=LONGEST)
    add_options(parser, StreamConfig, ("backend", "precision", "threads"))
    recordings.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    if args.bag:
        return recordings.main(args)
    card, _ = read_card(args.model)
    if card.task == "counting":
        return counting.main(args, card)
    args.k = args.k or "1,2,3,5"
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"{card.name}_{Path(args.data).stem}_{args.split}"
    rows: list[dict[str, Any]] = []
    worst: list[Answer] = []
    alike: dict[str, list[float]] = {}
    for setting, policy, mode in variants(args):
        data = open_labelled(args.data, args.split, args.root, card.size)
        check_classes(card, data)
        if args.similarity and not alike:
            alike = similarity(args, data, args.out / f"{stem}_similarity.png")
        stream = load_stream(
            args.model,
            backend=args.backend,
            precision=args.precision,
            threads=args.threads,
            **policy,
            **{name: getattr(args, name) for name in STREAM_OPTIONS},
            max_gap=0.0,  # CamVid's frames lie a second apart; a new video resets the stream itself
            both_sides=mode == "B",
        )
        check_delay(stream)
        row = evaluate(stream, data, args.all_classes, args.limit, None if rows else worst, args.streaming)
        rows.append({"policy": policy["policy"], "setting": setting, "mode": mode, **row})
        log.info("%s, %s, mode %s: mIoU %.4f", policy["policy"], setting, mode, row["mIoU"])
    report = {
        "model": card.name,
        "data": f"{args.data} {args.split}",
        "frames": len(data),
        "backend": f"{stream.backend.name} {stream.backend.precision}, {card.size[1]}x{card.size[0]}",
        "remarks": [*remarks(args, card), *getattr(data, "notes", ())],
        "rows": rows,
        "similarity": alike,
    }
    args.result = report
    (args.out / f"{stem}.json").write_text(json.dumps(report, indent=2, allow_nan=False))
    table = format_table(report)
    (args.out / f"{stem}.md").write_text(table)
    if worst:
        write_image(args.out / f"{stem}_worst.png", draw(worst, data.palette)[:, :, ::-1])
    draw_tradeoff([report], args.out / f"{stem}.png")
    log.info("\n%s\nwrote %s and .json, .png", table, args.out / f"{stem}.md")
    return 0


def check_classes(card: Any, data: Any) -> None:
    if list(card.classes) != list(data.classes):
        raise VssError(
            f"model {card.name} and {data.name} differ in their classes: {card.classes} and {data.classes}; "
            "give a --model that was trained on these"
        )


def evaluate(
    stream: Stream,
    data: Any,
    all_classes: bool = False,
    limit: int = 0,
    worst: list[Answer] | None = None,
    streaming: bool = False,
) -> dict[str, Any]:
    """Figures of one row: mIoU, wIoU, accuracy, IoU by class; mean frames a keyframe, ms a frame, the
    longest from a frame's stamp to its answer (in mode B it waits for frames; and a keyframe's time); of videos also
    TC, of those with all of their frames labelled VC_8, VC_16 and, if asked for, the streaming mIoU.

    `worst`, if given, receives the frames of lowest mIoU.
    """
    classes = len(data.classes)
    scores, spent = Scores(classes), Times()
    streaming_counts = np.zeros_like(scores.counts)
    dense = moves = False
    bar = progress(unit="frame", total=None if limit else len(data))
    for part in passages(stream, data, limit):
        again = streaming and part.dense
        dense, moves = dense or part.dense, moves or part.moves
        frames = list(part.frames) if again else part.frames
        for i, (frame, answer, found) in enumerate(
            answers(stream, frames, scores, part.moves, part.whole), part.first
        ):
            spent.add(answer.is_keyframe, answer.times["total"] + answer.times.get("part", 0.0))
            if "mIoU" in found:
                bar.update(1 if part.dense else 1 / len(ages(stream)))
                keep_worst(worst, Answer(found["mIoU"], f"{part.name}, {i}", frame, answer.labels))
        if again:
            streaming_counts += streamed(stream, list(frames), data.fps, classes)
    bar.close()
    times = spent.medians()
    key, nonkey = times["key"], times.get("nonkey")
    interval = (len(spent.key) + len(spent.nonkey)) / len(spent.key)
    shares = metrics.iou(scores.counts)
    row = {
        **(dict.fromkeys(f"mVC_{n}" for n in WINDOWS) if dense else {}),
        **({"TC": None} if moves else {}),
        **scores.summary(all_classes),
        "IoU": {c: None if s != s else float(s) for c, s in zip(data.classes, shares, strict=True)},
        "confusion": scores.counts.tolist(),
        "interval": interval,
        "key_ms": key,
        "nonkey_ms": nonkey,
        "ms": (key + (interval - 1) * nonkey) / interval if nonkey else key,
        "latency_ms": key + 1e3 * stream.lookahead / data.fps,
    }
    if dense and streaming:
        row["sIoU"] = metrics.mean_iou(streaming_counts, all_classes)
    return row


@dataclass
class Passage:
    """Frames that a row of the table answers one after the other; first: number of the first; moves, whole: as
    `Scores.start` takes them; dense: a video whose frames all have a truth."""

    name: str
    first: int
    frames: Iterable[Frame]
    moves: bool = False
    whole: bool = False
    dense: bool = False


def passages(stream: Stream, data: Any, limit: int) -> Iterator[Passage]:
    """A dense video is run once. Of any other each labelled frame is answered at every age, and, where its frames come
    at a video's rate, all of it once more for TC."""

    def frames(images: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> Iterator[Frame]:
        for t, (image, truth) in enumerate(images):
            yield image, truth, round(t * 1e9 / data.fps)

    left = limit or len(data)
    seen_at = (0,) if getattr(data, "stills", False) else ages(stream)
    for video in data.videos():
        items = itertools.islice(video.frames, limit or None)
        if video.dense:
            pairs = ((image, truth) for image, truth, _ in items)
            yield Passage(video.name, 0, frames(pairs), moves=True, dense=True)
            continue
        if video.moves and left:
            yield Passage(video.name, 0, frames((image, None) for image, *_ in items), moves=True, whole=True)
        for i, age in itertools.product(video.targets[:left], seen_at):
            # From a keyframe `age` frames before the labelled one, and its run-up, to what it waits for (in B mode,
            # the keyframe after it). One of them has its truth.
            before = age + run_up(stream)
            clip = data.clip(i, range(-before, stream.lookahead + 1))
            truths = [truth if t == before else None for t, truth in enumerate(clip.labels)]
            yield Passage(clip.sequence, clip.index - before, frames(zip(clip.frames, truths, strict=True)))
        left -= min(left, len(video.targets))


def streamed(stream: Any, video: Sequence[Any], fps: float, classes: int) -> np.ndarray:
    """Confusion of each frame's truth with the newest answer that is out at its time (streaming accuracy: Li, Wang,
    Ramanan, "Towards Streaming Perception", ECCV 2020).

    The stream is driven as a camera of `fps` would: it takes the newest frame whenever it is free, the clock being
    the time that it takes here. Before the first answer every pixel counts as wrong.
    """
    stream.reset()
    counts = np.zeros((classes, classes + 1), np.int64)
    out: list[tuple[float, Any]] = []
    free, t = 0.0, 0
    while t < len(video):
        start = max(free, t / fps)
        found = stream.feed(np.ascontiguousarray(video[t][0]), t / fps)  # of an earlier frame, or none yet
        done = start + sum(result.times["total"] for result in found) / 1e3
        stream.after()
        out += [(done, result.labels) for result in found]
        free = done + sum(result.times.get("part", 0.0) for result in found) / 1e3
        t = max(t + 1, int(free * fps + 1e-9))
    for i, (_, truth, _) in enumerate(video):
        ready = [labels for done, labels in out if done <= i / fps + 1e-9]
        counts += metrics.confusion(truth, ready[-1] if ready else np.full_like(truth, 255), classes)
    return counts


def ages(stream: Stream) -> Sequence[int]:
    """Frames since the keyframe at which a labelled frame is answered: each as often as the policy gives it.

    Of a policy that chooses by itself, one run-up long enough for it to settle.
    """
    policy = stream.policy
    if stream.beside:
        return range(max(stream.beside.delay, 1))
    longest = policy.longest
    if stream.schedule == "parts":  # a keyframe waits for those of the one before
        longest = max(longest, stream.backend.parts)
    return range(longest) if isinstance(policy, FixedInterval) else (2 * longest,)


def run_up(stream: Stream) -> int:
    """Frames from a stream's first one, whose keyframe is answered at once, until what is remembered is as late and as
    many as it stays."""
    if stream.beside:
        return 2 * stream.beside.delay
    if stream.schedule == "parts":
        interval, parts = stream.policy.longest, stream.backend.parts
        return (
            interval if parts <= interval else interval + parts
        )  # else until the second keyframe is remembered
    return stream.policy.longest * stream.backend.keeps if stream.backend.keeps > 1 else 0


def remarks(args: argparse.Namespace, card: Any) -> list[str]:
    """What a reader must know to judge the figures."""
    notes = flattery(card, args.data, args.split)
    if args.data == "camvid" and args.split == "val" and notes:
        notes.append("the val video lies 1 s from training frames of the same drive")
    if args.data == "camvid" and args.split != "val":
        notes.append("frames lie 1 s apart: K > 1 reuses a keyframe of other places")
    if args.limit:
        notes.append(f"only the first {args.limit} frames (of each video) were used")
    classes = "all classes, absent ones as 0" if args.all_classes else "classes present in the truth"
    notes.append(f"mIoU over {classes}; mVC by the authors' script (T − n windows); TC by DIS flow, nearest")
    return notes


COLUMNS = (
    *("interval", "mIoU", "sIoU", "wIoU", "accuracy", "mVC_8", "mVC_16", "TC"),
    *("key_ms", "nonkey_ms", "ms", "latency_ms"),
)


def format_table(report: dict[str, Any]) -> str:
    """The report as Markdown: a row a (policy, setting, mode), then IoU by class of the first row."""
    rows = report["rows"]
    columns = [name for name in COLUMNS if name in rows[0]]
    lines = [
        f"# {report['model']} on {report['data']} ({report['frames']} labelled frames, {report['backend']})",
        "",
        f"| policy | setting | mode | {' | '.join(map(heading, columns))} |",
        "| --- " * (len(columns) + 3) + "|",
    ]
    for row in rows:
        cells = [shown(name, row[name]) for name in columns]
        lines.append(f"| {row['policy']} | {row['setting']} | {row['mode']} | {' | '.join(cells)} |")
    lines += ["", f"| class | IoU % at {rows[0]['setting']} |", "| --- | --- |"]
    for name, value in rows[0]["IoU"].items():
        lines.append(f"| {name} | {'absent' if value is None else f'{100 * value:.1f}'} |")
    lines += ["", *confusion_table(rows[0], rows[0]["setting"])]
    lines += similarity_table(report["similarity"])
    return "\n".join([*lines, "", *(f"- {note}" for note in report["remarks"]), ""])


def confusion_table(row: dict[str, Any], setting: str) -> list[str]:
    """Rows of the truth, columns of the labels, in % of a row's pixels."""
    classes = list(row["IoU"])
    lines = [
        f"| truth, % labelled as, at {setting} | {' | '.join(classes)} |",
        "| --- " * (len(classes) + 1) + "|",
    ]
    for name, counts in zip(classes, row["confusion"], strict=True):
        total = sum(counts)
        shares = [f"{100 * count / total:.1f}" if total else "–" for count in counts[: len(classes)]]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return lines
