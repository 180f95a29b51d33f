"""What the launch files share: arguments made of a config's fields, processes whose failure is the launch's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ShutdownProcess

from vss_ros.config import VssError
from vss_ros.nodes.processes import large_images

BOOLEAN = ["true", "false", "True", "False"]
"""Also as Python writes it: Nav2's launch files pass `use_sim_time:=True` on."""


def declare(
    kind: type, prefix: str = "", otherwise: str = "as in params_file, by", **defaults: str
) -> list[Any]:
    """An argument for each field of a config. Empty, it leaves the option to params_file, or to its default."""
    return [
        DeclareLaunchArgument(
            prefix + item.name,
            default_value=defaults.get(item.name, ""),
            description=describe(item, otherwise),
            choices=choices(item, defaults),
        )
        for item in dataclasses.fields(kind)
    ]


def describe(item: dataclasses.Field, otherwise: str) -> str:
    low, high = item.metadata["low"], item.metadata["high"]
    span = "" if low is None else f" ({low:g} to {high:g})"
    return f"{item.metadata['help']}{span}; empty: {otherwise} default {item.default!r}"


def choices(item: dataclasses.Field, defaults: dict[str, str]) -> list[str] | None:
    words = BOOLEAN if isinstance(item.default, bool) else item.metadata["choices"]
    return [*words, *([] if defaults.get(item.name) else [""])] if words else None


def given(kind: type, arguments: dict[str, str], prefix: str = "") -> dict[str, Any]:
    """The arguments that are not empty, each with the type of its field. Raises VssError for another type."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        text = arguments[prefix + item.name]
        wanted: Any = type(item.default)
        try:
            if text:
                values[item.name] = read(text, wanted)
        except ValueError as error:
            raise VssError(f"{prefix}{item.name}: expected {wanted.__name__}, got {text!r}") from error
    return values


def read(text: str, wanted: Any) -> Any:
    """Text as a bool, as the names of a list such as front,left, or as whatever else is wanted."""
    if wanted is tuple:
        return [name.strip() for name in text.strip("[] ").split(",")]
    return is_true(text) if wanted is bool else wanted(text)


def is_true(text: str) -> bool:
    return text.lower() == "true"


def let_large_images_through() -> list[Any]:
    """For all that starts after it."""
    return [SetEnvironmentVariable(name, path) for name, path in large_images().items()]


def fail_with_any() -> Any:
    """Whichever process fails ends the launch with exit code 1."""

    def ended(event: Any, context: Any) -> list[Any]:
        return failed(event, context) if event.returncode and not context.is_shutdown else []

    return RegisterEventHandler(OnProcessExit(on_exit=ended))


def fail_with(node: Any, companions: Sequence[Any]) -> Any:
    """If `node` fails, the launch's exit code is 1. Only its companions end with it: the other nodes of a robot
    must not stop because its segmentation did."""

    def ended(event: Any, context: Any) -> list[Any]:
        if context.is_shutdown:
            return []
        if event.returncode:
            set_exit_code(context, reason(event))
        return [EmitEvent(event=ShutdownProcess(process_matcher=matches_action(item))) for item in companions]

    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))


def failed(event: Any, context: Any, why: str = "") -> list[Any]:
    """End the launch with exit code 1."""
    set_exit_code(context, why or reason(event))
    return [Shutdown(reason=why or reason(event))]


def set_exit_code(context: Any, why: str) -> None:
    """Exit code 1 in the end. An exception would do that at once, and leave out the other event handlers."""
    context.asyncio_loop.call_exception_handler({"message": why})


def reason(event: Any) -> str:
    return f"{event.process_name} ended with code {event.returncode}: see its lines above"
