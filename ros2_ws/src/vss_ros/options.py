"""Config fields as command-line options; launch files and ROS parameters read the same list."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from vss_ros.config import VssError


@dataclass(frozen=True)
class Option:
    """A config's field as its users see it. help: without default and range, see `text`."""

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def text(self) -> str:
        """Meaning, default and range."""
        shown = " ".join(map(str, self.default)) if self.kind is tuple else self.default
        reach = "" if self.low is None else f", {self.low:g} to {self.high:g}"
        return f"{self.help} (default: {'none' if shown == '' else shown}{reach})"

    def parse(self, text: str) -> Any:
        """A word of the command line as the field's type; ValueError says what was expected."""
        expected = {int: "a whole number", float: "a number"}.get(self.kind, self.kind.__name__)
        reach = "" if self.low is None else f" in {self.low:g} to {self.high:g}"
        try:
            value = self.kind(text)
        except ValueError:
            raise ValueError(f"expected {expected}{reach}, got {text!r}") from None
        inside = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        if not inside:
            raise ValueError(f"expected {expected}{reach}, got {text!r}")
        return value


def options_of(config: type, names: Sequence[str] = ()) -> Iterator[Option]:
    """The fields of a config dataclass that were made by `option(...)`: all, or those named, in that order."""
    known = {item.name: item for item in fields(config) if "help" in item.metadata}
    for name in names or known:
        meta = known[name].metadata
        yield Option(
            name, known[name].default, meta["help"], tuple(meta["choices"]), meta["low"], meta["high"]
        )


def add_options(parser: Any, config: type, names: Sequence[str] = (), **defaults: Any) -> None:
    """The options of a config, or those named, as `--NAME`. defaults: where a command has others than the config."""
    for option in options_of(config, names):
        if option.name in defaults:
            option = Option(**{**vars(option), "default": defaults[option.name]})
        extra: dict[str, Any] = {"type": of(option), "metavar": option.name.upper()}
        if option.kind is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        elif option.choices:
            extra = {"choices": option.choices}
        elif option.kind is tuple:
            extra = {"nargs": "*", "metavar": option.name.upper()}
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            default=option.default,
            help=option.text.replace("%", "%%"),
            **extra,
        )


def of(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def from_options(config: type, args: argparse.Namespace) -> Any:
    """The config that a command line gives; fields that are no options of it keep their default. Raises VssError."""
    known = {item.name for item in fields(config)}
    values = {name: value for name, value in vars(args).items() if name in known}
    return config(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


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
