"""Fit a network to a data set as a recipe in config/train/ says: one loop, on one or many devices.

A run that was stopped, even by kill -9, goes on exactly from its last checkpoint with --resume. At the end the
best checkpoint is measured on the validation and test frames and written as safetensors with a model card.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import logging
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.config import VssError, brief, option
from vss_ros.data.open import open_labelled
from vss_ros.networks import build, encoder_of
from vss_ros.options import DataConfig, add_options, progress
from vss_ros.train.chain import data_root, run_earlier
from vss_ros.train.checkpoints import resume, save, start
from vss_ros.train.publish import export
from vss_ros.train.recipe import PRECISIONS, Recipe, check_clip, check_data, on_data, read_recipe
from vss_ros.train.samples import make_loader
from vss_ros.train.segmentation import Segmentation
from vss_ros.train.task import task_of

log = logging.getLogger(__name__)

NO_SCORE = -1e9
"""Before the first validation; finite, as a checkpoint must be."""
ADDRESSED = {"MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE"}
"""Of a process that was told where the other machines are."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


@dataclass(frozen=True)
class TrainConfig:
    """Options of `vss train`, beside the recipe's."""

    recipe: str = option("", "name of a file in config/train/, or the path of one", unset="positional")
    out: Path | None = option(
        None, "folder of checkpoints, curves and the model", kind=Path, unset="runs/<recipe>"
    )
    data: str = option("", "a data set's name, or a YAML file of your own", unset="the recipe's")
    resume: bool = option(False, "go on from <out>/last.ckpt")
    export: bool = option(False, "only write the model of <out>/best.ckpt")
    accelerator: str = option("auto", "what it runs on", choices=("auto", "cpu", "cuda"))
    devices: int = option(1, "processes a node: GPUs, or shares of a CPU", low=1)
    nodes: int = option(1, "machines", low=1)
    precision: str | None = option(None, "arithmetic", choices=PRECISIONS, kind=str, unset="the recipe's")
    workers: int = option(2, "loader processes a device", low=0)
    cache: Path | None = option(None, "folder of gigabytes of clips, as rendered or decoded", kind=Path)
    validate_frames: int = option(60, "frames of a validation run; 0: all", low=0)
    card_frames: int = option(0, "frames of val and of test that the card's figures are from; 0: all", low=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TrainConfig)
    add_options(parser, DataConfig, ("root",))


def main(args: argparse.Namespace) -> int:
    recipe = on_data(read_recipe(args.recipe), args.data)
    name = Path(args.recipe).stem
    out = args.out or Path("runs") / name
    if not args.export:
        if (out / "last.ckpt").exists() and not args.resume:
            raise VssError(f"{out} holds a run: give --resume to go on with it, or another --out")
        out.mkdir(parents=True, exist_ok=True)
        if recipe.after and recipe.data != "pseudo":
            parts_of(recipe, args, out)  # what is wrong with this one is said before hours of earlier ones
        run_earlier(recipe, args, out)
        try:
            is_first = train(recipe, args, out)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise VssError(
                f"out of memory with batch {recipe.batch} and crop {recipe.crop}: raise accumulate or lower either; "
                f"{out / 'last.ckpt'} holds the last saved state"
            ) from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise VssError(
                f"batch: expected 2 clips or more at a time, for the statistics of pooled features; {recipe.batch} "
                f"÷ devices ÷ accumulate (now {recipe.accumulate}) are 1: raise batch or lower these"
            ) from None
        if not is_first:
            return 0
    card = export(recipe, args, out, name)
    log.info("wrote %s", card)
    return 0


def train(recipe: Recipe, args: argparse.Namespace, out: Path) -> bool:
    """Run the loop; → is this the first of all processes?"""
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import TensorBoardLogger
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning.fabric").propagate = False  # it writes its lines itself
    logger = TensorBoardLogger(out, name="", version="")
    precision: Any = args.precision or arithmetic(recipe.precision, args.accelerator)
    if args.nodes > 1 and not ADDRESSED & set(os.environ):
        raise VssError(
            f"--nodes {args.nodes}: expected to be started on each machine by torchrun or a cluster's scheduler, "
            f"found none of {', '.join(sorted(ADDRESSED))}: leave --nodes out for one machine"
        )
    try:
        fabric = Fabric(
            accelerator=args.accelerator,
            devices=args.devices,
            num_nodes=args.nodes,
            precision=precision,
            loggers=logger,
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise VssError(f"--accelerator {args.accelerator} --devices {args.devices}: {brief(error)}") from None
    fabric.launch()
    rank, world = fabric.global_rank, fabric.world_size
    if recipe.batch % (world * recipe.accumulate):
        raise VssError(
            f"batch: expected a multiple of devices × accumulate = {world * recipe.accumulate}, got {recipe.batch}"
        )
    torch.manual_seed(recipe.seed)
    if fabric.device.type == "cpu":
        keep_memory()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.devices))
    data, held_out, network, task = parts_of(recipe, args, out)
    start(network, recipe, out)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    if fabric.device.type == "cuda" and world > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    optimiser = make_optimiser(network, recipe)
    average = AveragedModel(network, fabric.device)
    model, optimiser = fabric.setup(network, optimiser)
    model.mark_forward_method("loss")
    state: dict[str, Any] = {
        "step": 0,
        "best": NO_SCORE,
        "seconds": 0.0,
        "recipe": dataclasses.asdict(recipe),
        "classes": list(data.classes),
    }
    # A chain of stages may have been stopped before this recipe's own first step.
    if args.resume and ((out / "last.ckpt").exists() or not recipe.after):
        state |= resume(out / "last.ckpt", network, average, optimiser, recipe, data.classes)
    batches = make_loader(task.samples(data), recipe, state["step"], rank, world, args.workers)
    bar = progress(initial=state["step"], total=recipe.steps, disable=rank > 0, mininterval=2, smoothing=0.05)
    spent = dict.fromkeys(("data", "network", "optimiser", "validation", "checkpoints"), 0.0)

    while state["step"] < recipe.steps:
        began = time.perf_counter()
        factor = rate(state["step"], recipe)
        for group, base in zip(optimiser.param_groups, rates(recipe), strict=True):
            group["lr"] = base * factor
        # Dropout of a step follows from its number, so that a resumed run draws the same.
        torch.manual_seed((recipe.seed * 1_000_003 + state["step"]) * 1009 + rank)
        waited, total = 0.0, torch.zeros(())
        for i in range(recipe.accumulate):
            asked = time.perf_counter()
            drawn = next(batches)
            waited += time.perf_counter() - asked
            batch = task.batch(drawn, fabric.device)
            with fabric.no_backward_sync(model, enabled=i + 1 < recipe.accumulate):
                losses = model.loss(batch, **recipe.loss)
                fabric.backward(losses["loss"] / recipe.accumulate)
            total = total + torch.stack(list(losses.values())).detach().cpu() / recipe.accumulate
        mean = dict(zip(losses, summed(fabric, total / world).tolist(), strict=True))
        if not math.isfinite(mean["loss"]):
            saved = out / "last.ckpt"
            raise VssError(
                f"the loss is {mean['loss']} at step {state['step']}: lower lr, lengthen warmup or set clip_norm; "
                + (f"{saved} holds the last saved state" if saved.exists() else "nothing was saved yet")
            )
        computed = time.perf_counter()
        if recipe.clip_norm:
            fabric.clip_gradients(model, optimiser, max_norm=recipe.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        update_average(average, network, recipe.average)
        stepped = time.perf_counter()
        state["step"] += 1
        state["seconds"] += stepped - began
        spent["data"] += waited
        spent["network"] += computed - began - waited
        spent["optimiser"] += stepped - computed

        step, done = state["step"], state["step"] == recipe.steps
        busy = 1 - waited / (stepped - began)
        bar.update()
        best = {"best": f"{state['best']:.3f}"} if state["best"] > NO_SCORE else {}
        bar.set_postfix(loss=f"{mean['loss']:.3f}", busy=f"{busy:.0%}", **best)
        if step == 1 or step % 10 == 0:
            scalars = {f"loss/{name}": value for name, value in mean.items()}
            fabric.log_dict({**scalars, "lr": recipe.lr * factor, "busy": busy}, step)
        if step % recipe.validate_every == 0 or done:
            interval = network.interval if len(recipe.offsets) + bool(recipe.neighbours) > 1 else 1
            with fabric.autocast():
                counts = task.measure(average.module, held_out, args.validate_frames, rank, world, interval)
            scores = task.scores(summed(fabric, counts).numpy())
            score = scores[task.score]
            if math.isnan(score):
                raise VssError(f"{held_out.name}: nothing in it gives {task.score}: see `vss data check`")
            for name, value in scores.items():
                fabric.log(f"val/{name}", value, step)
            if rank == 0:
                sample = task.draw(average.module, held_out)
                logger.experiment.add_image(f"val/{task.picture}", sample, step, dataformats="HWC")
            if rank == 0 and log.isEnabledFor(logging.INFO):
                line = f"step {step}: loss {mean['loss']:.3f}, val {task.score} {score:.3f}"
                bar.write(line, file=sys.stderr)
            # Before half of the steps the rate is high, and a few val frames may like what all others do not.
            if score > state["best"] and 2 * step >= recipe.steps:
                state["best"] = score
                if rank == 0:
                    save(out / "best.ckpt", {"network": average.module.state_dict(), **state})
            spent["validation"] += time.perf_counter() - stepped
        if (step % recipe.save_every == 0 or done) and rank == 0:
            asked = time.perf_counter()
            parts = {"network": network, "average": average, "optimiser": optimiser}
            save(out / "last.ckpt", {**{name: part.state_dict() for name, part in parts.items()}, **state})
            spent["checkpoints"] += time.perf_counter() - asked
    bar.close()
    if rank == 0:
        log.info(timing_table(spent))
    logger.finalize("success")
    fabric.barrier()
    return rank == 0


def arithmetic(precision: str, accelerator: str) -> str:
    """A recipe's precision; 32-true on a CPU without bfloat16, whose emulation takes 6 to 14 times as long."""
    if precision == "32-true" or (accelerator != "cpu" and torch.cuda.is_available()):
        return precision
    if cpu_has_bf16():
        return precision
    log.info("this CPU has no bfloat16: trained in float32 (--precision %s: as the recipe says)", precision)
    return "32-true"


def parts_of(recipe: Recipe, args: argparse.Namespace, out: Path) -> tuple[Any, Any, Any, Segmentation]:
    """Train and val split, a fresh network and its task, all checked: VssError where they do not go together."""
    root = data_root(recipe, out, args.root)
    data, held_out = (open_labelled(recipe.data, split, root, recipe.size) for split in ("train", "val"))
    network = build(recipe.network, recipe.backbone, len(data.classes), **recipe.options)
    check_clip(network, recipe)
    check_data(data, recipe)
    task = task_of(network, recipe, args.cache)
    for split in (data, held_out):
        task.check(split)
    return data, held_out, network, task


@torch.no_grad()
def update_average(average: Any, network: nn.Module, decay: float) -> None:
    """Moving average (an AveragedModel's) of what a network's checkpoint holds: weights and statistics. Its own update
    takes every buffer, also the indices and tables that a network keeps for itself."""
    share = 1 - decay if average.n_averaged else 1.0
    held = average.module.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            held[name].lerp_(value.to(held[name]), share)
        else:
            held[name].copy_(value)
    average.n_averaged += 1


def timing_table(spent: dict[str, float]) -> str:
    """Seconds of this run by what they went to; "data" is what the network waited for the loader."""
    whole = max(sum(spent.values()), 1e-9)
    rows = [f"{name:12} {seconds:9.1f} s {seconds / whole:7.1%}" for name, seconds in spent.items()]
    return "\n".join(["where the time went:", *rows])


def summed(fabric: Any, part: Tensor) -> Tensor:
    """Sum of every process's part, on the CPU."""
    return fabric.all_reduce(part.to(fabric.device), reduce_op="sum").cpu()


def keep_memory() -> None:
    """Let glibc reuse freed tensors: by default each step maps and clears its memory anew (2.1 s, not 1.2 s)."""
    if platform.system() == "Linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
                libc.mallopt(parameter, value)


def rates(recipe: Recipe) -> tuple[float, float]:
    """Learning rates of the encoder (`encoder_of`) and of the rest, which differ in the papers."""
    return recipe.lr, recipe.lr_head or recipe.lr


def rate(step: int, recipe: Recipe) -> float:
    """Factor of the learning rates: linear warm-up, then poly from 1 to `floor`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = 1 - (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.floor + (1 - recipe.floor) * left**recipe.power


def make_optimiser(network: Any, recipe: Recipe) -> torch.optim.Optimizer:
    slow = tuple(f".{part}" for part in encoder_of(network))
    parts: tuple[list, list] = ([], [])
    for name, parameter in network.named_parameters():
        parts[not any(part in f".{name}" for part in slow)].append(parameter)
    groups = [{"params": part, "lr": lr} for part, lr in zip(parts, rates(recipe), strict=True)]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
