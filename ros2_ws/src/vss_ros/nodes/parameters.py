"""ROS parameters made from the fields of a config dataclass: one description, range and check for all."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vss_ros.config import VssError, replace

Config = TypeVar("Config")


def declare(node: Node, kind: type[Config], fixed: bool = True) -> Config:
    """Declare a parameter for each field of `kind`; the config that the node's overrides make.

    fixed: the node reads them only now: a later change, which would do nothing, is refused.
    Raises VssError for a value of the wrong type or outside of its range.
    """
    values = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        try:
            values[item.name] = declare_one(node, item, fixed)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise VssError(refusal(item, node, error)) from error
    warn_unknown(node, set(values))
    if fixed:
        node.add_on_set_parameters_callback(functools.partial(refuse, node.get_name(), set(values)))
    return kind(**values)


def refuse(node: str, names: set[str], parameters: list[Parameter]) -> SetParametersResult:
    own = ", ".join(parameter.name for parameter in parameters if parameter.name in names)
    reason = f"{own}: {node} reads its options only at start; start it again" if own else ""
    return SetParametersResult(successful=not own, reason=reason)


def declare_one(node: Node, item: dataclasses.Field, fixed: bool) -> Any:
    about = describe(item, fixed)
    if item.default != ():
        return node.declare_parameter(item.name, item.default, about).value
    kind = Parameter.Type.STRING_ARRAY  # an empty list has no type of its own
    value: Any = node.declare_parameter(item.name, kind, about).value
    if value is None:
        node.set_parameters([Parameter(item.name, kind, [])])
    return tuple(value or ())


def describe(item: dataclasses.Field, fixed: bool) -> ParameterDescriptor:
    """Description, range and choices of one field, as `ros2 param describe` and rqt show them."""
    meta = item.metadata
    when = "only while unconfigured"
    when = "at any time" if meta["runtime"] else "while not active" if meta["inactive"] else when
    when = "read at start" if fixed else f"may change {when}"
    descriptor = ParameterDescriptor(description=f"{meta['help']} ({when})")
    if meta["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
    if meta["low"] is not None and isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=meta["low"], to_value=meta["high"])]
    elif meta["low"] is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(meta["low"]), to_value=int(meta["high"]))]
    return descriptor


def refusal(item: dataclasses.Field, node: Node, error: Exception) -> str:
    """One line for a start-up value that rclpy refused; its own text differs between releases."""
    meta, expected = item.metadata, type(item.default).__name__
    if meta["low"] is not None:
        expected += f" in [{meta['low']}, {meta['high']}]"
    got = getattr(node, "_parameter_overrides", {}).get(item.name)
    return f"{item.name}: expected {expected}, got {got.value!r}" if got else f"{item.name}: {error}"


def warn_unknown(node: Node, known: set[str]) -> None:
    """rclpy drops overrides that no one declares; a misspelt option would silently do nothing."""
    for name in getattr(node, "_parameter_overrides", {}):
        ours = not name.startswith("qos_overrides.") and not node.has_parameter(name)
        if ours and name not in ("use_sim_time", "start_type_description_service"):
            node.get_logger().warning(
                f"unknown parameter {name!r} is ignored: expected one of {', '.join(sorted(known))}"
            )


def change(config: Any, parameters: list[Parameter], state: str) -> Any:
    """The config after `ros2 param set`; parameters that are no field of it are left alone.

    state: the lifecycle's. Raises VssError with the reason of a refusal: a bad value, or an option that may not
    change in that state.
    """
    by_name = {item.name: item for item in dataclasses.fields(config)}
    changes = {p.name: read(p.value) for p in parameters if p.name in by_name}
    for name, value in changes.items():
        if name == "autostart" and value != config.autostart:
            raise VssError("autostart: acts only at start; restart the node with -p autostart:=...")
        meta = by_name[name].metadata
        if meta["runtime"] or value == getattr(config, name) or state == "unconfigured":
            continue
        if meta["inactive"] and state != "inactive":
            raise VssError(
                f"{name}: read-only while the node is active; deactivate first (ros2 lifecycle set NODE deactivate), "
                "set it, then activate again"
            )
        if not meta["inactive"]:
            raise VssError(
                f"{name}: read-only once configured; deactivate and clean up first (ros2 lifecycle set NODE "
                "deactivate, then cleanup), set it, then configure and activate again"
            )
    return replace(config, **changes)


def read(value: Any) -> Any:
    """A parameter's value as the dataclasses hold it: arrays are tuples."""
    return tuple(value) if isinstance(value, list) else value
