"""`vss evaluate --bag`: recordings through the same stream as the node's, read frame by frame without ROS.

Every input (see `data.recordings`) is answered by every model, keyframe interval and mode that is asked for.
What DIR holds already and would come out the same is not computed again; the report shows all that DIR holds, so
that a second command with another model into the same folder compares the two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vss_ros.config import InputConfig, StreamConfig, VssError, brief, option, replace
from vss_ros.data.recordings import find_cameras, find_inputs
from vss_ros.evaluate.live import evaluate_live
from vss_ros.evaluate.run import Task, evaluate_run, is_done
from vss_ros.evaluate.settings import LONGEST, STREAM_OPTIONS, variants
from vss_ros.networks.cards.card import read_card
from vss_ros.options import add_options, progress

log = logging.getLogger(__name__)
POLL = 0.5
"""Seconds between two looks at the workers' progress."""


@dataclass(frozen=True)
class RecordingsConfig:
    """Options of `vss evaluate --bag`."""

    bag: tuple[str, ...] = option(
        (),
        "rosbags, videos, folders of images, folders of all these, street[:SEED], or NAME:SPLIT of a data set",
    )
    topic: str = option("", "image topic of bags, or its base topic", unset="all cameras")
    truth: str = option("", "true labels: a mask topic of the bag, or a folder of masks")
    fps: float = option(0.0, "frame rate; 0: the recording's own", low=0.0, high=1e4)
    jobs: int = option(1, "processes; each has --threads, or its share of the cores", low=1, high=1024)
    ray: str = option("", "a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT")
    live: Path | None = option(None, "folder of `recorder`: score it beside the offline run", kind=Path)
    overlay: bool = option(True, "write the overlay into the bags, too")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recordings instead of a data set (several models: --model a,b)")
    add_options(group, RecordingsConfig)
    add_options(group, InputConfig)
    add_options(group, StreamConfig, ("groups",))


def main(args: argparse.Namespace) -> int:
    from vss_ros.evaluate.report import write_report

    tasks = plan(args)
    if args.live and len(tasks) != 1:
        raise VssError(f"--live: expected one recording, model and interval, got {len(tasks)} runs")
    todo = [task for task in tasks if not is_done(task)]
    if len(todo) < len(tasks):
        log.info("%d of %d runs are there already", len(tasks) - len(todo), len(tasks))
    failures = run_all(args, todo)
    if args.live and not failures:
        evaluate_live(tasks[0], args.live.absolute())
    for line in merged(failures):
        log.error("%s", brief(line, 2000))
    table, page = write_report(args.out, merged(failures))
    args.result = json.loads((args.out / "report.json").read_text())
    log.info("\n%s\nwrote %s", table, page)
    return 1 if failures else 0


def merged(failures: Sequence[tuple[Task, str]]) -> list[str]:
    """A line for each input and reason: what is wrong with a recording is wrong for every model and setting."""
    runs: dict[tuple[str, str], list[str]] = {}
    for task, reason in failures:
        runs.setdefault((task.input, reason), []).append(task.run)
    return [f"{source} ({', '.join(names)}): {reason}" for (source, reason), names in runs.items()]


def plan(args: argparse.Namespace) -> list[Task]:
    """A task for each input, model, keyframe policy with its setting, and mode."""
    threads = args.threads
    if not threads and (args.ray or args.jobs > 1):
        threads = 1 if args.ray else max((os.cpu_count() or 1) // args.jobs, 1)
    runs: dict[str, tuple[dict[str, Any], bool]] = {}
    if args.policy != "fixed":
        args.k = args.k or "5"
    defaults = StreamConfig()
    chosen = {
        name: getattr(args, name) for name in STREAM_OPTIONS if getattr(args, name) != getattr(defaults, name)
    }
    for model, (setting, policy, mode) in itertools.product(args.model.split(","), list(variants(args))):
        model = str(Path(model).absolute()) if Path(model).is_file() else model
        options = {
            "model": model,
            "backend": args.backend,
            "precision": args.precision,
            "threads": threads,
            "groups": str(Path(args.groups).absolute()) if args.groups else "",
            **policy,
            **chosen,
        }
        replace(StreamConfig(), **options)  # a wrong option is refused before hours of work
        name = read_card(model)[0].name
        name += f" {policy['policy']}" if policy.get("policy", "fixed") != "fixed" else ""
        name += f" {setting.replace(' ', '')}" if setting else ""
        for bound, default in (("min_interval", defaults.min_interval), ("max_interval", LONGEST)):
            name += f" {bound}={policy[bound]}" if policy.get(bound, default) != default else ""
        name += " B" if mode == "B" else ""
        name += f" groups={Path(args.groups).stem}" if args.groups else ""
        name += "".join(f" {choice}" for choice in (args.backend, args.precision) if choice != "auto")
        name += "".join(f" {option}={value}" for option, value in chosen.items())
        if name in runs:
            raise VssError(f"--model {args.model}: two models are named {name.split()[0]}; rename one's card")
        runs[name] = (options, mode == "B")
    root = args.root.absolute() if args.root else None
    truth = str(Path(args.truth).absolute()) if Path(args.truth).is_dir() and args.truth else args.truth
    inputs = find_inputs(args.bag, root)
    seen = [
        (f"{short} {topic}" if len(topics) > 1 else short, source, topic)
        for short, source in inputs.items()
        for topics in [find_cameras(source, args.topic, args.truth)]
        for topic in topics
    ]
    return [
        Task(
            input=source,
            run=name,
            folder=str(args.out.absolute() / safe(short) / safe(name)),
            stream=options,
            both_sides=both_sides,
            topic=topic,
            truth=truth,
            fps=args.fps,
            limit=args.limit,
            overlay=args.overlay,
            root=str(root or ""),
            max_pixels=args.max_pixels,
        )
        for short, source, topic in seen
        for name, (options, both_sides) in runs.items()
    ]


def safe(name: str) -> str:
    """A file name that every system takes."""
    return re.sub(r"[^\w.=-]+", "_", name).strip("._") or "input"


def run_all(args: argparse.Namespace, tasks: list[Task]) -> list[tuple[Task, str]]:
    """Evaluate with a progress bar; → [(task that failed, why)]. One damaged bag does not stop a fleet's."""
    reasons: dict[int, str] = {}
    lengths = [length(task) for task in tasks]
    total = None if None in lengths else sum(n or 0 for n in lengths)
    with progress(total=total, unit="frame", leave=bool(tasks)) as bar:
        if args.jobs == 1 and not args.ray:
            for number, task in enumerate(tasks):
                bar.set_description(f"{number + 1}/{len(tasks)} {Path(task.folder).parent.name}")
                reasons[number] = attempt(task, show_from(bar))
        else:
            try:
                with cluster(args.ray) if args.ray else processes(args.jobs) as submit:
                    reasons = collect({submit(task): number for number, task in enumerate(tasks)}, tasks, bar)
            finally:
                for task in tasks:
                    progress_file(task).unlink(missing_ok=True)
    return [(tasks[number], reason) for number, reason in sorted(reasons.items()) if reason]


def length(task: Task) -> int | None:
    """Frames of a task, None if unknown; 0 if its input cannot be read, which `attempt` will tell."""
    try:
        frames = task.open().length
    except VssError:
        return 0
    return min(frames, task.limit) if frames and task.limit else frames


def show_from(bar: Any) -> Callable[[int], None]:
    """Shows a task's progress on top of the tasks before."""
    start = bar.n

    def progress(done: int) -> None:
        bar.update(start + done - bar.n)

    return progress


def attempt(task: Task, progress: Callable[[int], None]) -> str:
    """Why the task failed, or ""."""
    try:
        evaluate_run(task, progress)
        return ""
    except VssError as error:
        return str(error)
    except Exception:  # a mistake of ours, or of a library, costs one run and not the fleet's
        return traceback.format_exc()


# In other processes, also on other machines; the folder of the results is what they share with us.


def collect(futures: dict[Future, int], tasks: list[Task], bar: Any) -> dict[int, str]:
    """Wait for all, showing how far they are; → {number of the task: why it failed, or ""}."""
    reasons: dict[int, str] = {}
    frames, waiting = [0] * len(tasks), set(futures)
    while waiting:
        done, waiting = wait(waiting, POLL, FIRST_COMPLETED)
        for number, task in enumerate(tasks):
            frames[number] = max(frames[number], read_progress(task))
        reasons.update({futures[future]: outcome(future) for future in done})
        bar.set_description(f"{len(reasons)}/{len(tasks)} runs")
        bar.update(sum(frames) - bar.n)
    return reasons


@contextmanager
def processes(jobs: int) -> Iterator[Callable[[Task], Future]]:
    spawn = multiprocessing.get_context("spawn")  # the runtimes have threads, which do not survive a fork
    with ProcessPoolExecutor(jobs, spawn) as pool:
        try:
            yield lambda task: pool.submit(work, task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():  # a Ctrl-C may have reached only us
                if child.pid:
                    with suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGINT)
            raise


@contextmanager
def cluster(address: str) -> Iterator[Callable[[Task], Future]]:
    """Workers of a Ray cluster: vss_ros is installed on each, inputs and --out have the same path for all."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":  # on Linux, too, this has Ray listen on the loopback device alone
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    try:
        ray.init(address, include_dashboard=False if address == "local" else None, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise VssError(f"--ray {address}: no cluster there ({error}); start one: ray start --head") from error
    remote = ray.remote(work)
    try:
        yield lambda task: remote.options(num_cpus=task.stream["threads"]).remote(task).future()
    finally:
        ray.shutdown()


def work(task: Task) -> str:
    """`attempt` where its progress must be told through a file."""
    told = 0.0

    def progress(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > POLL:
            told = time.monotonic()
            progress_file(task).write_text(str(done))

    try:
        return attempt(task, progress)
    except KeyboardInterrupt:
        os._exit(130)  # else the pool gives this process the next task


def progress_file(task: Task) -> Path:
    folder = Path(task.folder)
    return folder.parent / f".{folder.name}.progress"


def read_progress(task: Task) -> int:
    try:
        return int(progress_file(task).read_text())
    except (OSError, ValueError):  # not yet there, or being written
        return 0


def outcome(future: Future) -> str:
    try:
        return future.result()
    except Exception as error:  # the process itself died, such as for lack of memory
        return f"its worker ended: {type(error).__name__}: {error}"
