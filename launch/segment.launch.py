"""Start the segmentation node on a camera topic and bring it to active.

ros2 launch vss_ros segment.launch.py image_topic:=/camera/image_raw visualize:=true
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]
OUTPUTS = (
    "mask",
    "mask/compressed",
    "confidence",
    "color_mask",
    "overlay",
    "flicker",
    "camera_info",
    "label_info",
    "label_info_json",
    "consistency",
    "flicker",
)
BOOLEAN = ["true", "false"]
ARGUMENTS = (
    ("image_topic", "/camera/image_raw", "topic of the camera's images", None),
    (
        "camera_info_topic",
        "",
        "topic of the camera's calibration; empty: camera_info beside the images",
        None,
    ),
    ("transport", "", "type of the image topic; empty: as in params_file", ["", "raw", "compressed"]),
    ("params_file", str(SHARE / "config" / "segment.yaml"), "YAML file with the node's parameters", None),
    ("namespace", "", "namespace of the node and of its segmentation/ topics", None),
    ("model", "", "name of a model or path of its card; empty: as in params_file", None),
    (
        "backend",
        "",
        "runtime of the network; empty: as in params_file",
        ["", "auto", "torch", "onnxruntime", "openvino"],
    ),
    ("use_sim_time", "false", "take the time from /clock", BOOLEAN),
    ("visualize", "false", "show camera, overlay, colour mask and flicker in rviz", BOOLEAN),
    ("watch", "false", "serve a live web page of the masks, as `vss watch` does", BOOLEAN),
    (
        "watch_host",
        "127.0.0.1",
        "address of that page; 0.0.0.0 lets others in, who need the token in the log",
        None,
    ),
    ("watch_port", "8088", "TCP port of that page", None),
    ("autostart", "true", "configure and activate; false leaves that to a lifecycle manager", BOOLEAN),
)


def start(context):
    """The actions, once the values of the arguments are known."""
    value = context.launch_configurations
    image = value["image_topic"]
    camera = image.removesuffix("/compressed").rpartition("/")[0]
    outputs = [(f"~/{name}", f"segmentation/{name}") for name in OUTPUTS]
    parameters = {"use_sim_time": value["use_sim_time"] == "true", "autostart": value["autostart"] == "true"}
    parameters |= {name: value[name] for name in ("model", "backend", "transport") if value[name]}
    actions = large_images()
    # The node activates itself: that works alike in all releases, and without a chain of launch events.
    actions.append(
        Node(
            package="vss_ros",
            executable="segment",
            name="segment",
            namespace=value["namespace"],
            parameters=[value["params_file"], parameters],
            remappings=[
                ("image", image),
                ("camera_info", value["camera_info_topic"] or f"{camera}/camera_info"),
                *outputs,
            ],
            output="screen",
        )
    )
    if value["watch"] == "true":
        actions.append(
            Node(
                package="vss_ros",
                executable="watcher",
                name="watcher",
                namespace=value["namespace"],
                parameters=[{"host": value["watch_host"], "port": int(value["watch_port"])}],
                output="screen",
            )
        )
    if value["visualize"] == "true":
        prefix = f"/{value['namespace'].strip('/')}".rstrip("/")
        shown = [
            (f"/segmentation/{name}", f"{prefix}/segmentation/{name}")
            for name in ("overlay", "color_mask", "flicker")
        ]
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                arguments=["-d", str(SHARE / "rviz" / "segment.rviz")],
                parameters=[{"use_sim_time": parameters["use_sim_time"]}],
                remappings=[("/camera/image_raw", image), *shown],
            )
        )
    return actions


def large_images():
    """Fast DDS loses best-effort images above 512 kB without this; a profile of the user's own stays."""
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # Kilted; Humble and Jazzy
    if any(name in os.environ for name in names):
        return []
    return [SetEnvironmentVariable(name, str(SHARE / "config" / "fastdds.xml")) for name in names]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
