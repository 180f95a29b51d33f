"""Config fields as command-line options; launch files and ROS parameters read the same list."""

from __future__ import annotations

import argparse
import difflib
import logging
import math
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from vss_ros.config import VssError, child_command, option


@dataclass(frozen=True)
class Option:
    """A config's field as its users see it. help: without default and range, see `text`."""

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    kind: type = str
    unset: str = ""
    """What holds where it is left out, if the default does not say so."""

    @property
    def text(self) -> str:
        """Meaning, default and range."""
        shown = " ".join(map(str, self.default)) if self.kind is tuple else self.default
        if self.kind is bool:
            shown = "yes" if self.default else "no"
        elif self.kind is float and self.default is not None:
            shown = f"{self.default:g}"
        shown = self.unset or ("none" if shown in ("", None) else shown)
        if shown == "positional":
            return self.help
        shown = shown if shown == "required" else f"default: {shown}"
        return f"{self.help} ({shown}{f', {self.reach}' if self.reach else ''})"

    @property
    def reach(self) -> str:
        if self.high is None:
            return "" if self.low is None else f"at least {self.low:.10g}"
        return f"{self.low:.10g} to {self.high:.10g}"

    def parse(self, text: str) -> Any:
        """A word of the command line as the field's type; ValueError says what was expected."""
        expected = {int: "a whole number", float: "a number"}.get(self.kind, self.kind.__name__)
        reach = f" in {self.reach}".replace("in at least", "of at least") if self.reach else ""
        try:
            value = self.kind(text)
        except ValueError:
            raise ValueError(f"expected {expected}{reach}, got {text!r}") from None
        inside = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        if not inside:
            raise ValueError(f"expected {expected}{reach}, got {text!r}")
        return value


@dataclass(frozen=True)
class DataConfig:
    """What commands that read a data set ask."""

    data: str = option(
        "street", "street, camvid, cityscapes, vspw, or the YAML file or folder of a data set of your own"
    )
    split: str = option("test", "frames of the data set: train, val or test")
    root: Path | None = option(None, "folder of the data set", kind=Path, unset="$VSS_DATA/<name>")
    limit: int = option(0, "frames of each video at most; 0: all", low=0)


@dataclass(frozen=True)
class NetworkConfig:
    """What commands ask that make a network, or fix the size of its input."""

    network: str = option("dcfm", "such as dcfm or segformer")
    backbone: str = option("mit_b0", "of the network")
    classes: int = option(19, "number of classes", low=1, high=255)
    size: str = option("", "HEIGHTxWIDTH of the network's input", unset="the card's")


def options_of(config: type, names: Sequence[str] = ()) -> Iterator[Option]:
    """The fields of a config dataclass that were made by `option(...)`: all, or those named, in that order."""
    known = {item.name: item for item in fields(config) if "help" in item.metadata}
    for name in names or known:
        default, meta = known[name].default, known[name].metadata
        kind = meta["kind"] or type(default)
        reach = tuple(meta["choices"]), meta["low"], meta["high"]
        yield Option(name, default, meta["help"], *reach, kind, meta["unset"])


def add_options(parser: Any, config: type, names: Sequence[str] = (), **defaults: Any) -> None:
    """The options of a config, or those named, as `--NAME` or by their place.

    defaults: where a command has others than the config.
    """
    for item in options_of(config, names):
        if item.name in defaults:
            item = replace(item, default=defaults[item.name])
        extra: dict[str, Any] = {"type": of(item), "metavar": item.name.upper()}
        if item.kind is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        elif item.choices:
            extra = {"choices": item.choices}
        elif item.kind is tuple:
            extra = {"nargs": "*", "metavar": item.name.upper()}
        if item.unset == "required":
            extra["required"] = True
        name = f"--{item.name.replace('_', '-')}"
        if item.unset == "positional":
            name = item.name
            extra |= {} if item.choices else {"metavar": name}
            extra |= {"nargs": "+"} if item.kind is tuple else {}
        action = parser.add_argument(name, default=item.default, **extra)
        action.help = item.text.replace("%", "%%")  # here, since some releases add the default to a bool's


def of(item: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return item.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def from_options(config: type, args: argparse.Namespace) -> Any:
    """The config that a command line gives; fields that are no options of it keep their default. Raises VssError."""
    known = {item.name for item in fields(config)}
    values = {name: value for name, value in vars(args).items() if name in known}
    return config(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


@dataclass(frozen=True)
class JsonConfig:
    """Of a command whose `main` leaves its result, of plain values, in `args.result`."""

    json: bool = option(False, "print the result as one JSON document; all other text goes to stderr")


def add_json(parser: Any) -> None:
    add_options(parser, JsonConfig)


def plain(value: Any) -> Any:
    """A result as JSON has it: text as keys (sizes as WIDTHxHEIGHT), numbers of NumPy as Python's, NaN as null."""
    if isinstance(value, Mapping):
        return {
            "x".join(map(str, k[::-1])) if isinstance(k, tuple) else str(k): plain(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def progress(items: Iterable[Any] | None = None, what: str = "", **options: Any) -> Any:
    """tqdm's bar on stderr, with the time left, of work that has lasted two seconds: only on a terminal, and only where
    the log says what goes on (`--quiet`). options: tqdm's."""
    from tqdm import tqdm

    quiet = options.pop("disable", False) or not logging.getLogger("vss_ros").isEnabledFor(logging.INFO)
    return tqdm(items, what or None, disable=quiet or None, **{"delay": 2, **options})


class Parser(argparse.ArgumentParser):
    """Wrong words come with the nearest right one, and as VssError: before any work, in one line."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized arguments") and unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            message = f"unknown option {unknown[0]}{near(unknown[0].split('=')[0], known)}"
        raise VssError(f"{message}; see {self.prog} --help")


def near(word: str, known: Sequence[str]) -> str:
    """ ": did you mean X?", or nothing where no known word is like it."""
    found = difflib.get_close_matches(word, known, 1)
    return f": did you mean {found[0]}?" if found else ""


def succeeds(*line: str) -> bool:
    """Whether a command of `vss` does. It runs in a process of its own, so that it leaves no memory and no process
    group behind, and is as quiet as this one."""
    quiet = [] if logging.getLogger(__name__).isEnabledFor(logging.INFO) else ["--quiet"]
    return not subprocess.run(child_command("vss_ros.cli", *line, *quiet)).returncode
