"""From a model's name and options to a stream that is ready to be called."""

from __future__ import annotations

import dataclasses
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from vss_ros.backends import int8_files
from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import pin
from vss_ros.backends.gpu.present import has_cuda
from vss_ros.config import RuntimeConfig, StreamConfig, VssError, replace
from vss_ros.media.motion import Motion
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.stream.keyframes import make_policy
from vss_ros.stream.schedule import Auto, measure
from vss_ros.stream.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)


class RuntimeOptions(TypedDict, total=False):
    """For editors and type checkers: the types of `RuntimeConfig`'s fields, where meanings and ranges stand."""

    backend: Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"]
    precision: Literal["auto", "f32", "bf16", "f16", "int8"]
    bf16_agreement: float
    calibration: str
    threads: int
    affinity: str
    height: int
    width: int
    max_gap: float


class StreamOptions(RuntimeOptions, total=False):
    """Also those of `StreamConfig`; `keyframe_interval` is `interval`, and the last two are `Stream`'s."""

    groups: str
    policy: Literal["every", "fixed", "adaptive", "consistency"]
    interval: int
    keyframe_interval: int
    threshold: float
    drift_threshold: float
    min_interval: int
    max_interval: int
    motion: bool
    between: Literal["memory", "answer"]
    flow_scale: float
    flow_preset: Literal["ultrafast", "fast", "medium"]
    steady: float
    schedule: Literal["auto", "at_once", "parts", "beside"]
    delay: int
    parts: int
    rate: float
    hide_unseen: bool
    both_sides: bool
    measure_drift: bool


def load_stream(model: str | Path | None = None, **options: Unpack[StreamOptions]) -> Stream:
    """A stream that is ready to be called.

    model: name of an installed model (`vss models`) or path of a card, by default "street"; options: those of
    `StreamConfig`, also as `keyframe_interval`, and two of `Stream`: `both_sides` (offline: also use the next
    keyframe) and `measure_drift`. Raises VssError for a model that is not there or damaged, an unknown option or a
    value out of its range, and a backend that is not installed.

        with vss_ros.load_stream("street", backend="auto", keyframe_interval=5) as stream:
            result = stream(rgb, stamp)  # rgb (H, W, 3) uint8, stamp in seconds
    """
    given: dict[str, Any] = dict(options)
    of_stream = {name: given.pop(name) for name in ("both_sides", "measure_drift") if name in given}
    if "keyframe_interval" in given:
        if "interval" in given:
            raise VssError("interval, keyframe_interval: expected one of them, they are the same option")
        given["interval"] = given.pop("keyframe_interval")
    if model is not None:
        given["model"] = str(model)
    return open_stream(replace(StreamConfig(), **given), **of_stream)


def open_stream(
    config: StreamConfig, both_sides: bool = False, measure_drift: bool = False, auto: Auto | None = None
) -> Stream:
    """`load_stream` for a config that exists already. auto: what its schedule auto is to be, not to be measured."""
    model = model_of(config, parts_of(config, auto))
    if model.card and model.card.task != "segmentation":
        raise VssError(f"model {config.model}: its task is {model.card.task}, expected segmentation")
    backend = open_backend(model, spare(config, auto.schedule if auto else config.schedule))
    motion = Motion(model.size, config.flow_scale, config.flow_preset) if config.motion else None
    make = partial(Stream, card=model.card, both_sides=both_sides, measure_drift=measure_drift)
    make = partial(make, motion=motion, between=config.between)
    if config.schedule != "auto":
        auto = Auto(config.schedule, "")
    elif motion is None or both_sides or backend.lookahead:
        auto = Auto("at_once", "without motion, or where answers wait for later frames, nothing may be late")
    elif auto is None:
        cameras = len(getattr(config, "cameras", ())) or 1
        asked = make_policy(config, 0).longest, 1 / (config.rate * cameras)
        trial = make(backend)
        trial.configure(config)
        costs = measure(trial)
        del trial  # one network in memory at a time
        auto = costs.choose(*asked)
        may_cut = backend.parts == 1 and backend.keeps == 1 and config.between == "memory"
        if auto.schedule != "at_once" and may_cut:
            del backend
            backend = open_backend(dataclasses.replace(model, parts=config.parts), config)
            auto = costs.cut(backend).choose(*asked)
        log.info("schedule %s: %s", auto.schedule, auto.why)
        if auto.schedule == "beside":
            del backend
            backend = open_backend(
                dataclasses.replace(model, parts=parts_of(config, auto)), spare(config, "beside")
            )
    stream = make(backend, schedule=auto.schedule, delay=config.delay)
    stream.configure(config)
    stream.prepare(config)
    stream.auto = auto
    return stream


def spare(config: StreamConfig, schedule: str) -> StreamConfig:
    """Beside, one core is left to the answers, unless the user says how many threads the network has."""
    cores = os.cpu_count() or 1
    if schedule != "beside" or config.threads or config.affinity or cores == 1:
        return config
    return replace(config, threads=cores - 1)


def model_of(config: RuntimeConfig, parts: int = 1) -> Model:
    """The model that a config names, at its size and with its calibration."""
    model = open_model(config.model, (config.height, config.width) if config.height else None)
    model = dataclasses.replace(model, parts=parts)
    if config.precision != "int8" or model.card is None:
        return model
    folder = Path(config.calibration) if config.calibration else int8_files.folder_of(model.card, model.size)
    return dataclasses.replace(model, calibration=int8_files.find(folder, model.card, model.size))


def parts_of(config: StreamConfig, auto: Auto | None = None) -> int:
    """How many stages `remember` is cut into: only to run them one a frame, since buffers between them take memory and
    on a CPU half as much time again. auto: what schedule auto is, once that is known; engines on a GPU are built before
    it is."""
    if config.schedule == "auto" and has_cuda():
        return config.parts
    return config.parts if (auto.schedule if auto else config.schedule) == "parts" else 1


def warm_up(stream: Stream) -> None:
    """Runtimes allocate with the first key and non-key frame: better now than on the road, or in a figure."""
    blank = np.zeros((*stream.backend.size, 3), np.uint8)
    for _ in stream.run([(blank, 0.0), (blank, 0.1)]):
        pass
    stream.reset()


def open_backend(model: Model, config: RuntimeConfig) -> Any:
    """The runtime that a config names, with the model on it."""
    cores = pin(config.affinity) if config.affinity else 0
    return make_backend(
        model,
        config.backend,
        precision=config.precision,
        bf16_agrees=model.bf16_agreement >= config.bf16_agreement,
        threads=config.threads or cores,
    )
