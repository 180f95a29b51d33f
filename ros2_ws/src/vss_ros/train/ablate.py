"""Train and compare variants of a recipe: the tables of the papers, for any data set, with mean and spread over seeds.

A table is a YAML file in config/ablate/: a base recipe, rows with what they change in it, and arguments of `vss
evaluate`. Runs that are finished are not made again, so the command may be stopped and given once more; with another
recipe, data set or number of steps it wants another folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vss_ros.config import VssError, brief, fits, option, share_dir
from vss_ros.data.figures import FIGURES, figure, heading
from vss_ros.data.open import open_labelled
from vss_ros.media.files import read_fields, write_atomic
from vss_ros.networks.cards.card import read_card
from vss_ros.options import DataConfig, add_options, near, succeeds
from vss_ros.train.chain import stages_of
from vss_ros.train.recipe import Recipe, check, convert, on_data, read_recipe


@dataclass(frozen=True)
class Table:
    """rows: title → fields of the recipe that differ, or `recipe`: another base, or `model`: nothing to train; and
    `evaluate`: more arguments of that command."""

    title: str
    rows: dict[str, Any]
    base: str = ""
    evaluate: str = ""
    """Arguments of `vss evaluate`; each of its settings is a group of columns."""
    columns: list[str] = field(default_factory=lambda: ["mIoU", "mVC_8"])
    """Figures of its report; shares are shown in %, times in ms."""


@dataclass(frozen=True)
class AblateConfig:
    """Options of `vss ablate`."""

    table: str = option("", "name of a file in config/ablate/, or the path of one", unset="positional")
    data: str = option("", "data set to train and measure on", unset="the recipe's")
    recipe: str = option("", "recipe to vary", unset="the table's")
    model: str = option("", "model to measure where nothing is trained", unset="the table's")
    seeds: int = option(1, "runs of each row", low=1)
    steps: int = option(
        0, "optimiser steps of each run, not of those that it comes after; 0: the recipe's", low=0
    )
    out: Path | None = option(None, "folder of runs and table", kind=Path, unset="runs/ablate/<table>")
    cache: Path | None = option(
        None, "folder for clips as rendered or decoded", kind=Path, unset="<out>/cache"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, AblateConfig)
    add_options(parser, DataConfig, ("root", "split", "limit"))


def main(args: argparse.Namespace) -> int:
    table = read_table(args.table)
    check_asked(table, args)
    out = args.out or Path("runs/ablate") / Path(args.table).stem
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for title, changes in table.rows.items():
        seeds = range(1 if "model" in changes else args.seeds)
        results[title] = [measure(table, changes, f"{slug(title)}_{seed}", seed, args, out) for seed in seeds]
    text = format_table(table, results, shlex.join(["vss", "ablate", *described(args)]))
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "table.json", json.dumps(results, indent=2).encode())
    sys.stderr.write(f"{text}\nwrote {out / 'table.md'} and .json\n")
    return 0


def read_table(name: str) -> Table:
    path = Path(name)
    installed = {p.stem: p for p in sorted((share_dir() / "config" / "ablate").glob("*.yaml"))}
    if path.suffix not in (".yaml", ".yml"):
        if name not in installed:
            names = ", ".join(installed) + near(name, list(installed))
            raise VssError(f"table {name!r}: expected the path of a .yaml file or one of {names}")
        path = installed[name]
    try:
        table = Table(**convert(read_fields(path, Table), Table))
        return dataclasses.replace(table, rows=checked(table))
    except VssError as error:
        raise VssError(f"table {path}: {str(error).removeprefix(f'{path}: ')}") from None


def checked(table: Table) -> dict[str, dict[str, Any]]:
    """The rows, an empty one as {}. Raises VssError for what no recipe, report or file's name can be made of."""
    if not table.rows or not all(changes is None or fits(changes, dict) for changes in table.rows.values()):
        raise VssError("rows: expected changes of the recipe by each row's title")
    rows = {title: changes or {} for title, changes in table.rows.items()}
    files: dict[str, str] = {}
    for title, changes in rows.items():
        known = ["recipe", "model", "evaluate", *(item.name for item in dataclasses.fields(Recipe))]
        if unknown := sorted(set(changes) - set(known)):
            raise VssError(f"{brief(title)}: unknown {brief(unknown)}{near(unknown[0], known)}")
        other = files.setdefault(slug(title), title)
        if other != title or not slug(title):
            raise VssError(f"rows: {brief(title)} and {brief(other)} name the same files: take other letters")
        try:
            shlex.split(f"{table.evaluate} {changes.get('evaluate', '')}")
        except ValueError as error:
            raise VssError(
                f"{brief(title)}: evaluate: expected arguments of `vss evaluate`: {error}"
            ) from None
    if unknown := [name for name in table.columns if name not in FIGURES and not name.endswith("_ms")]:
        raise VssError(f"columns: unknown {brief(unknown)}{near(unknown[0], list(FIGURES))}")
    return rows


def check_asked(table: Table, args: argparse.Namespace) -> None:
    """VssError for what does not go together, before hours of training."""
    varied = [row for row in table.rows.values() if "model" not in row and "recipe" not in row]
    measured = [row for row in table.rows.values() if "model" in row]
    if args.recipe and not varied:
        raise VssError(f"--recipe: every row of the table {args.table} names what it takes: leave it out")
    if args.model and not measured:
        raise VssError(f"--model: every row of the table {args.table} is trained: leave it out")
    if varied and not (args.recipe or table.base):
        raise VssError(f"table {args.table}: expected `base`, a recipe; or give --recipe")
    for title, changes in table.rows.items():
        if "model" not in changes:
            try:
                recipe = variant(table, changes, 0, args)
                check(recipe)
            except VssError as error:
                raise VssError(f"table {args.table}: {brief(title)}: {error}") from None
    if not args.data:
        return
    data = open_labelled(args.data, args.split, args.root)
    for row in measured:
        card, _ = read_card(args.model or str(row["model"]))
        if list(card.classes) != list(data.classes):
            raise VssError(
                f"table {args.table}: {card.name} has other classes than {data.name}: give --model, the name or "
                "card of a model that was trained on these"
            )


def measure(
    table: Table, changes: dict[str, Any], name: str, seed: int, args: argparse.Namespace, out: Path
) -> list[dict[str, Any]]:
    """Train a row's run unless that is done; → the rows of its report by `vss evaluate`."""
    model = (args.model if "model" in changes else "") or str(changes.get("model", ""))
    data = args.data or "street"
    if not model:
        recipe = variant(table, changes, seed, args)
        data = recipe.data
        write_recipes(recipe, name, base_of(table, changes, args), args, out)
        model = str(out / name / f"{name}.yaml")
        if not Path(model).is_file():
            line = ["train", str(out / f"{name}.yaml"), "--out", str(out / name), "--workers", "1"]
            line += ["--cache", str(args.cache or out / "cache"), "--card-frames", "60", *root_of(args)]
            begun = recipe.after or (out / name / "last.ckpt").is_file()
            vss(*line, *(["--resume"] if begun else []))
    report = out / "reports" / name
    line = ["evaluate", "--model", model, "--data", data, "--split", args.split, "--out", str(report)]
    line += [
        "--limit",
        str(args.limit),
        *root_of(args),
        *shlex.split(f"{table.evaluate} {changes.get('evaluate', '')}"),
    ]
    done, asked = report / "command", shlex.join(line)
    if not done.is_file() or done.read_text() != asked:
        vss(*line)
        write_atomic(done, asked.encode())
    return json.loads(max(report.glob("*.json"), key=lambda path: path.stat().st_mtime).read_text())["rows"]


def base_of(table: Table, changes: dict[str, Any], args: argparse.Namespace) -> str:
    """Name or path of the recipe that a row varies."""
    return str(changes.get("recipe") or args.recipe or table.base)


def variant(table: Table, changes: dict[str, Any], seed: int, args: argparse.Namespace) -> Recipe:
    """The recipe of a row and seed. Mappings (loss, options, augment) are merged into the base's."""
    base = on_data(read_recipe(base_of(table, changes, args)), args.data)
    values: dict[str, Any] = {"seed": base.seed + seed}
    for key, value in changes.items():
        if key not in ("recipe", "evaluate"):
            merged = isinstance(value, dict) and isinstance(getattr(base, key), dict)
            values[key] = {**getattr(base, key), **value} if merged else value
    if args.steps:
        values |= {"steps": args.steps, "validate_every": args.steps}
        values["warmup"] = min(base.warmup, args.steps // 4)
    return dataclasses.replace(base, **convert(values, Recipe))


def write_recipes(recipe: Recipe, name: str, source: str, args: argparse.Namespace, out: Path) -> None:
    """The recipe, made from that at `source`, beside those that it comes after, which all rows share."""
    *earlier, _ = stages_of(source, recipe)
    shared = [(Path(path).stem, on_data(its, args.data)) for path, its in earlier]
    for title, stage in [(name, recipe), *shared]:
        values = json.loads(json.dumps(dataclasses.asdict(stage)))
        text, path = yaml.safe_dump(values, sort_keys=False), out / f"{title}.yaml"
        if (out / title).exists() and path.is_file() and path.read_text() != text:
            raise VssError(f"{out} holds {title} as another recipe, or on other data: give another --out")
        write_atomic(path, text.encode())


def format_table(table: Table, results: dict[str, list[list[dict[str, Any]]]], command: str) -> str:
    """Markdown: a row a variant, a column a setting and figure, mean ± standard deviation over the seeds."""
    first = next(iter(results.values()))[0]
    groups = [f"{row['setting']}{'' if row['mode'] == 'P' else ', B mode'}" for row in first]
    columns = [
        (i, name) for i in range(len(first)) for name in table.columns if first[i].get(name) is not None
    ]
    header = ["", *(f"{groups[i]}: {heading(name)}" for i, name in columns)]
    lines = [f"# {table.title}", "", f"`{command}`", "", row_of(header), row_of(["---"] * len(header))]
    for title, runs in results.items():
        cells = []
        for i, name in columns:
            values = [run[i][name] for run in runs if i < len(run) and run[i].get(name) is not None]
            scale = 100 if figure(name).unit == "%" else 1
            cells.append(spread([scale * value for value in values]))
        lines.append(row_of([title, *cells]))
    counts = {len(runs) for runs in results.values()}
    lines += [
        "",
        f"Mean ± standard deviation over {max(counts)} seeds." if max(counts) > 1 else "One run each.",
    ]
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def slug(title: str) -> str:
    return re.sub(r"\W+", "_", title).strip("_").lower()


def root_of(args: argparse.Namespace) -> list[str]:
    return ["--root", str(args.root)] if args.root else []


def described(args: argparse.Namespace) -> list[str]:
    """What was asked, without what says only where files lie."""
    line = [Path(args.table).stem if args.table.endswith((".yaml", ".yml")) else args.table]
    defaults = {"data": "", "recipe": "", "model": "", "split": "test", "seeds": 1, "steps": 0, "limit": 0}
    for name, default in defaults.items():
        value = getattr(args, name)
        line += [] if value == default else [f"--{name}", str(value)]
    return line


def vss(*arguments: str) -> None:
    if not succeeds(*arguments):
        raise VssError(f"vss {arguments[0]} failed; the same `vss ablate` goes on from there")
