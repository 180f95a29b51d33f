"""`vss`: one command for everything that is not a node."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

from vss_ros import __version__
from vss_ros.config import VssError, missing, option, share_dir
from vss_ros.options import Parser, add_options, near, plain

# command -> (module with add_arguments and main, what it does); a module is imported only when its command is run
COMMANDS = {
    "demo": ("vss_ros.nodes.demo", "camera stream → nodes → masks, overlay video and report"),
    "train": ("vss_ros.train.loop", "train a network by a recipe"),
    "memory": ("vss_ros.train.mar_memory", "MAR's key-value memory from a training set"),
    "ablate": ("vss_ros.train.ablate", "train and compare variants of a recipe: the tables of the papers"),
    "pseudo": ("vss_ros.deploy.pseudo", "pixel labels from image tags, by a trained MCIS"),
    "predict": ("vss_ros.deploy.predict", "masks of a video, folder, recording or camera as files"),
    "import": ("vss_ros.deploy.import_onnx", "an ONNX file of your own → model card, checked on an image"),
    "evaluate": ("vss_ros.evaluate.dataset", "accuracy and temporal consistency on a data set"),
    "data": ("vss_ros.data.check", "counts, classes, broken pairs of a data set; import of COCO, LabelMe"),
    "calibrate": (
        "vss_ros.deploy.calibrate",
        "INT8 on frames of your camera, and what it costs per layer group",
    ),
    "bench": ("vss_ros.deploy.bench.stages", "time per stage, key and non-key frames, ROS overhead"),
    "watch": ("vss_ros.nodes.watch.command", "live web page of a running segment node"),
    "convert": ("vss_ros.deploy.convert", "SegFormer of Hugging Face's, or a paper's .pth → model card"),
    "export": (
        "vss_ros.deploy.export",
        "stages as ONNX or exported programs, checked against torch",
    ),
    "build": ("vss_ros.deploy.build", "TensorRT engines of a model, ahead of time"),
    "doctor": ("vss_ros.deploy.doctor", "what is missing or does not go together on this machine"),
    "models": ("vss_ros.deploy.models", "list the installed models; fetch published weights"),
}


@dataclass(frozen=True)
class EveryConfig:
    """Options of every command."""

    quiet: bool = option(False, "say nothing but warnings and results")


class Lines(logging.StreamHandler):
    """The log on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(self.format(record), file=sys.stderr)
        else:
            super().emit(record)


def main(arguments: list[str] | None = None) -> int:
    if "_ARGCOMPLETE" in os.environ:
        complete()
    arguments = sys.argv[1:] if arguments is None else arguments
    listing = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    top = Parser(
        prog="vss",
        usage="vss COMMAND [options]",
        description=f"Video semantic segmentation on robots.\n\ncommands:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vss_ros {__version__}")
    top.add_argument("command", metavar="COMMAND", help="one of the above; -h after it for more")
    try:
        command = top.parse_args(arguments[:1]).command
        if command not in COMMANDS:
            hint = near(command, list(COMMANDS)) or f": expected one of {', '.join(COMMANDS)}"
            raise VssError(f"unknown command {command!r}{hint}")
    except VssError as error:
        print(f"vss: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", handlers=[Lines()])
    logging.getLogger("vss_ros").setLevel(logging.INFO)  # the exporters have much to say of their own
    # for whatever a command starts: no code of the current folder
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        module = importlib.import_module(COMMANDS[command][0])
        parser = Parser(prog=f"vss {command}", description=module.__doc__)
        module.add_arguments(parser)
        add_options(parser, EveryConfig)
        try:
            args = parser.parse_args(arguments[1:])
        except VssError as error:
            print(f"vss {command}: {error}", file=sys.stderr)
            return 2
        if args.quiet:
            logging.getLogger("vss_ros").setLevel(logging.WARNING)
        return run(module, args)
    except VssError as error:
        print(f"vss {command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `vss models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes once more as it ends
        return 1
    except OSError as error:  # a full disk, a name that is too long, a folder that may not be written
        where = f": {error.filename}" if error.filename else ""
        print(f"vss {command}: {VssError(f'{error.strerror or error}{where}')}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("vss_ros"):
            raise
        print(f"vss {command}: {missing(error.name or str(error))}; see `vss doctor`", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"vss {command}: stopped", file=sys.stderr)
        return 130


def complete() -> None:
    """Answer a shell that asks what may follow, and end: eval "$(register-python-argcomplete vss)" in ~/.bashrc."""
    try:
        import argcomplete
    except ModuleNotFoundError:  # the shell's own Python has it, this one has not
        sys.exit(1)
    typed = os.environ.get("COMP_LINE", "").split()[1:2]
    top = argparse.ArgumentParser(prog="vss")
    top.add_argument("--version", action="store_true")
    commands = top.add_subparsers()
    for name, (module, text) in COMMANDS.items():
        parser = commands.add_parser(name, help=text)
        if typed != [name]:
            continue  # some of them take seconds to import
        importlib.import_module(module).add_arguments(parser)
        add_options(parser, EveryConfig)
        for action in parser._actions:
            folder = {"model": "models", "recipe": "config/train", "table": "config/ablate"}.get(action.dest)
            if folder and action.choices is None:
                action.completer = complete_from(folder)  # type: ignore[attr-defined]
    argcomplete.autocomplete(top)


def complete_from(folder: str) -> Any:
    """Names of what is installed in a shared folder, beside paths."""
    from argcomplete.completers import FilesCompleter

    def names(prefix: str, **about: Any) -> list[str]:
        installed = [path.stem for path in (share_dir() / folder).glob("*.yaml")]
        return [*installed, *FilesCompleter()(prefix, **about)]

    return names


def run(module: Any, args: argparse.Namespace) -> int:
    """The command's exit code. With --json stdout holds its result alone."""
    if not getattr(args, "json", False):
        return module.main(args) or 0
    with contextlib.redirect_stdout(sys.stderr):
        code = module.main(args) or 0
    print(json.dumps(plain(args.result), indent=1, ensure_ascii=False, allow_nan=False))
    return code


if __name__ == "__main__":
    sys.exit(main())
