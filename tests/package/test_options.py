"""One list of options for command lines, launch files and parameters; wrong words are refused before any work."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import vss_ros
from fixtures.paths import ROOT
from vss_ros import cli
from vss_ros.config import VssError, check, option
from vss_ros.node_config import SegmentConfig
from vss_ros.options import Parser, add_options, from_options, options_of


@dataclass(frozen=True)
class Few:
    count: int = option(3, "how many, in %", low=1, high=9)
    share: float = option(0.5, "which share", low=0.0, high=1.0)
    kind: str = option("a", "which kind", choices=("a", "b"))
    fast: bool = option(True, "whether fast")
    names: tuple = option((), "which names")

    def __post_init__(self) -> None:
        check(self)


def parse(*words: str, **defaults) -> Few:
    parser = Parser(prog="few")
    add_options(parser, Few, **defaults)
    return from_options(Few, parser.parse_args(words))


def test_options_make_the_config():
    assert parse() == Few()
    words = ["--count", "9", "--share", "1", "--kind", "b", "--no-fast", "--names", "x", "y"]
    assert parse(*words) == Few(9, 1.0, "b", False, ("x", "y"))
    assert parse(count=5).count == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "10"], "--count: expected a whole number in 1 to 9, got '10'"),
        (["--count", "x"], "expected a whole number in 1 to 9, got 'x'"),
        (["--share", "nan"], "expected a number in 0 to 1"),
        (["--kind", "c"], "invalid choice: 'c'"),
        (["--cuont", "3"], "unknown option --cuont: did you mean --count?"),
    ],
)
def test_wrong_words_are_refused_with_the_fix(words, said):
    with pytest.raises(VssError, match=re.escape(said)):
        parse(*words)


def test_an_option_may_be_known_by_its_place():
    @dataclass(frozen=True)
    class Placed:
        names: tuple[str, ...] = option((), "which of them", unset="positional")
        kind: str = option("", "which kind", choices=("a", "b"), unset="positional")

    parser = Parser(prog="placed")
    add_options(parser, Placed)
    assert from_options(Placed, parser.parse_args(["x", "y", "a"])) == Placed(("x", "y"), "a")
    assert re.search(r"names +which of them\n", parser.format_help())
    with pytest.raises(VssError, match="required: names, kind"):
        parser.parse_args([])


def test_no_command_declares_an_option_by_hand():
    package = ROOT / "ros2_ws" / "src" / "vss_ros"
    by_hand = {file.name for file in package.rglob("*.py") if ".add_argument(" in file.read_text()}
    assert by_hand == {"options.py", "cli.py"}, "the words before a command's own"


def test_help_names_defaults_and_ranges():
    parser = argparse.ArgumentParser()
    add_options(parser, Few)
    text = " ".join(parser.format_help().split())
    assert "how many, in % (default: 3, 1 to 9)" in text and "(default: a)" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_of_every_command_has_a_text_and_says_its_default(command):
    module = importlib.import_module(cli.COMMANDS[command][0])
    parser = Parser(prog=command)
    module.add_arguments(parser)
    cli.add_options(parser, cli.EveryConfig)
    for action in parser._actions:
        name, text = "/".join(action.option_strings) or action.dest, (action.help or "") % {"prog": command}
        assert len(re.sub(r"\(.*", "", text)) > 5, f"{name} has no text: {text!r}"
        if action.option_strings and action.dest != "help":
            assert re.search(r"\((default: \S.*|required.*)\)$", text), f"{name} says no default: {text!r}"
            assert action.required == ("(required" in text), name
    assert " ".join(parser.format_help().split()).count("(default: ") > 0


def test_options_without_a_default_say_what_holds():
    @dataclass(frozen=True)
    class Loose:
        out: Path | None = option(None, "where", kind=Path, unset="beside it")
        size: str = option("", "how large", unset="required")
        turns: int = option(8, "how often", low=1)

    parser = Parser(prog="loose")
    add_options(parser, Loose)
    text = " ".join(parser.format_help().split())
    assert "where (default: beside it)" in text and "how large (required)" in text
    assert "how often (default: 8, at least 1)" in text
    args = parser.parse_args(["--out", "a/b", "--size", "x"])
    assert args.out == Path("a/b") and args.turns == 8 and parser.parse_args(["--size", "x"]).out is None
    for words, said in ((["--size", "x", "--turns", "0"], "a whole number of at least 1"), ([], "--size")):
        with pytest.raises(VssError, match=said):
            parser.parse_args(words)


def test_every_option_of_the_node_is_listed():
    listed = {item.name: item for item in options_of(SegmentConfig)}
    assert listed["schedule"].default == "auto" and listed["steady"].high == 0.95
    assert listed.keys() == SegmentConfig.__dataclass_fields__.keys()


def test_commands_have_a_version_and_say_what_was_meant(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert vss_ros.__version__ in capsys.readouterr().out
    assert f'version="{vss_ros.__version__}"' in (ROOT / "setup.py").read_text()
    assert cli.main(["evalaute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err
    assert cli.main(["models", "--claen"]) == 2
    assert "did you mean --clean?" in capsys.readouterr().err


def test_interval_has_one_spelling_at_a_time():
    with pytest.raises(VssError, match="expected one of them"):
        vss_ros.load_stream("street", interval=2, keyframe_interval=2)
