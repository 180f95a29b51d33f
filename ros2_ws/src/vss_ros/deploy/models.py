"""List the installed models, the engines that were built for them, and which of those are stale, and why; fetch
published weights."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vss_ros.config import VssError, cache_dir, option
from vss_ros.networks.cards.card import find_models, read_card
from vss_ros.networks.cards.download import KNOWN, Published, download
from vss_ros.networks.cards.model import open_model
from vss_ros.options import add_json, add_options, near


@dataclass(frozen=True)
class ModelsConfig:
    """Options of `vss models`."""

    clean: bool = option(
        False,
        "remove exported stages, which are made again when wanted, and engines that would not be loaded here",
    )
    get: str = option(
        "",
        f"fetch published weights: {', '.join(KNOWN)}, or a URL with --sha256; goes on where it was stopped",
    )
    sha256: str | None = option(None, "of the file at --get's URL", kind=str)
    out: Path | None = option(None, "folder for --get", kind=Path, unset="weights/ in the cache")
    all: bool = option(False, "also list engines of no installed model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ModelsConfig)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    paths = find_models()
    if args.get:
        args.result = get(args.get, args.sha256, args.out or cache_dir() / "weights")
        return 0
    if args.clean:
        args.result = clean(list(paths))
        return 0
    args.result = {"models": [], "known": list(KNOWN), "engines": []}
    for name, path in paths.items():
        card, _ = read_card(path)
        test = card.metrics.get("test", {})
        about = {
            key: getattr(card, key) for key in ("network", "backbone", "task", "size", "classes", "licence")
        }
        scores = {"test_mIoU": test.get("mIoU"), "test_MAE": test.get("points", {}).get("MAE")}
        args.result["models"].append({"name": name, "card": path, **scores, **about})
        accuracy = "not measured"
        own = f"on {str(card.training.get('data', 'its data')).partition(',')[0]}'s test split"
        if scores["test_mIoU"] is not None:
            accuracy = f"mIoU {scores['test_mIoU']:.1%} {own}"
        elif scores["test_MAE"] is not None:
            accuracy = f"MAE {scores['test_MAE']:.2f} of {test['objects']:.1f} objects {own}"
        classes = f"{len(card.classes)} classes" if len(card.classes) > 1 else card.classes[0]
        sys.stdout.write(
            f"{name}: {card.network}-{card.backbone}, {card.size[1]}×{card.size[0]}, {classes}, {accuracy}, "
            f"{card.licence}\n"
        )
    sys.stdout.write(f"\nto be fetched by --get: {', '.join(KNOWN)}\n")
    if any(cache_dir().glob("engines/*.engine")):  # torch takes seconds to import: not for an empty cache
        args.result["engines"] = list_engines(list(paths), args.all)
    return 0


def get(name: str, sha256: str | None, folder: Path) -> dict[str, Any]:
    """Fetch one of KNOWN, or a URL whose hash the user states."""
    if "://" not in name and name not in KNOWN:
        raise VssError(
            f"--get: expected one of {', '.join(KNOWN)}, or a URL with --sha256{near(name, list(KNOWN))}"
        )
    known = KNOWN.get(name) or Published(name, sha256 or "", "its owner's", "see `vss convert`, `vss import`")
    if "://" in name and not sha256:
        raise VssError("--get: expected --sha256 beside a URL: what is not known is not loaded")
    path = download(known.url, known.sha256, folder)
    sys.stdout.write(f"{path}\n  licence: {known.licence}\n  use: {known.use}\n")
    return {"file": path, "licence": known.licence, "use": known.use}


def list_engines(models: list[str], all_of_them: bool) -> list[dict[str, Any]]:
    """A line an engine: model, stage, size, precision, when it was built, and whether it would be loaded."""
    from vss_ros.backends.gpu import engines

    weights, entries = fingerprints(models), engines.entries()
    total = sum(entry.size for entry in entries)
    sys.stdout.write(f"\n{len(entries)} engines, {total / 1e6:.0f} MB, in {engines.engine_dir()}:\n")
    listed = []
    for entry in entries:
        model = weights.get(entry.key.weights, "") if entry.key else ""
        if not (model or all_of_them or entry.problem):
            continue
        key = entry.key
        what = f"{model or key.network} {key.stage} {key.size} {key.precision}" if key else entry.path.name
        built = time.strftime("%Y-%m-%d", time.localtime(entry.built))
        listed.append({"engine": what, "bytes": entry.size, "used": built, "state": state(entry, model)})
        sys.stdout.write(f"  {what}, {entry.size / 1e6:.1f} MB, last used {built}: {state(entry, model)}\n")
    unknown = sum(1 for entry in entries if entry.key and entry.key.weights not in weights)
    if unknown and not all_of_them:
        sys.stdout.write(
            f"  and {unknown} of no installed model: retrained, removed, or older code (--all)\n"
        )
    return listed


def clean(models: list[str]) -> dict[str, int]:
    """Empty the cache of exported stages and rid that of engines of those which this machine would not load."""
    from vss_ros.backends.gpu import engines

    stages = [path for path in cache_dir().glob("onnx/*") if path.is_file()]
    entries = engines.entries()
    weights = fingerprints(models) if entries else {}
    stale = [e.path for e in entries if state(e, weights.get(e.key.weights, "") if e.key else "") != "valid"]
    for what, paths in (("files of exported stages", stages), ("engines", stale)):
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            path.unlink(missing_ok=True)
        sys.stdout.write(f"{len(paths)} {what} removed, {size / 1e6:.0f} MB\n")
    return {"stages_removed": len(stages), "engines_removed": len(stale)}


def fingerprints(models: list[str]) -> dict[str, str]:
    """Names of models by the hash that their engines carry."""
    from vss_ros.backends.stages import fingerprint

    return {fingerprint(open_model(name)): name for name in models}


def state(entry: Any, model: str) -> str:
    """ "valid", or why the engine would not be loaded on this machine."""
    from vss_ros.backends.gpu import engines
    from vss_ros.backends.gpu.build import machine_key

    if entry.problem:
        return entry.problem
    if not model:
        return "stale: weights: no installed model has them"
    try:
        wanted = replace(entry.key, **machine_key())
    except VssError as error:
        return f"cannot be used here: {error}"
    differences = engines.differences(wanted, entry.key)
    return f"stale: {'; '.join(differences)}" if differences else "valid"
