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
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vss_ros.config import VssError
from vss_ros.nodes.processes import large_images

BOOLEAN = ["true", "false", "True", "False"]
"""Also as Python writes it: Nav2's launch files pass `use_sim_time:=True` on."""


CAMERA = (
    (
        "image_topic",
        "/camera/image_raw",
        "topic of the camera's images; with cameras {camera} stands for each name",
        None,
    ),
    (
        "camera_info_topic",
        "",
        "topic of the camera's calibration; empty: camera_info beside the images",
        None,
    ),
    ("use_sim_time", "false", "take the time from /clock", BOOLEAN),
    ("respawn", "false", "start the node again two seconds after it failed", BOOLEAN),
)
"""Arguments of every launch file that starts a node on a camera: name, default, meaning, choices."""


def arguments(*known: Any) -> list[Any]:
    """Launch arguments of such rows."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=words)
        for name, default, text, words in known
    ]


def camera_node(
    kind: type,
    name: str,
    value: dict[str, str],
    below: str,
    outputs: Sequence[str],
    files: Sequence[str] = (),
) -> tuple[Any, list[str]]:
    """The node `name` with its config's arguments, on its cameras' topics; → it, and the cameras' names.

    Answers appear as `below`/ALL_OUTPUTS. files: of parameters, which arguments override. The node activates itself:
    that works alike in all releases, and without a chain of launch events.
    """
    parameters = {"use_sim_time": is_true(value["use_sim_time"]), **given(kind, value)}
    cameras = parameters.get("cameras", [""])
    node = Node(
        package="vss_ros",
        executable=name,
        name=name,
        namespace=value["namespace"],
        parameters=[*files, typed(parameters)],
        remappings=[pair for camera in cameras for pair in remaps(value, camera, below, outputs)],
        respawn=is_true(value["respawn"]),
        respawn_delay=2.0,
        output="screen",
    )
    return node, cameras


def typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Each with its type: launch_ros would make a number of the model "7"."""
    return {
        name: item if isinstance(item, list) else ParameterValue(item, value_type=type(item))
        for name, item in parameters.items()
    }


def remaps(value: dict[str, str], camera: str, below: str, outputs: Sequence[str]) -> list[tuple[str, str]]:
    """Topics of one camera, whose name stands before all that is its own; "" for the only one."""
    prefix = f"{camera}/" if camera else ""
    image = value["image_topic"].replace("{camera}", camera)
    beside = image.removesuffix("/compressed").rpartition("/")[0]
    info = value["camera_info_topic"].replace("{camera}", camera) or f"{beside}/camera_info"
    own = [(f"~/{prefix}{name}", f"{below}/{prefix}{name}") for name in outputs]
    return [(f"{prefix}image", image), (f"{prefix}camera_info", info), *own]


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
            if text and (value := read(text, wanted)) != []:  # ROS has no empty list, it is the default
                values[item.name] = value
        except ValueError as error:
            raise VssError(f"{prefix}{item.name}: expected {wanted.__name__}, got {text!r}") from error
    return values


def read(text: str, wanted: Any) -> Any:
    """Text as a bool, as the names of a list such as front,left, or as whatever else is wanted."""
    if wanted is tuple:
        return [name.strip() for name in text.strip("[] ").split(",") if name.strip()]
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
