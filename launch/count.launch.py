"""Start the counting node on a camera topic and bring it to active.

ros2 launch vss_ros count.launch.py model:=/path/to/card.yaml image_topic:=/camera/image_raw patches:=2
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from vss_ros.node_config import CountConfig
from vss_ros.nodes import launch_files
from vss_ros.nodes.launch_files import BOOLEAN, is_true

from launch import LaunchDescription

OUTPUTS = ("points", "count", "counts", "density", "overlay", "camera_info")
ARGUMENTS = (
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
    ("namespace", "", "namespace of the node and of its counting/ topics", None),
    ("use_sim_time", "false", "take the time from /clock", BOOLEAN),
    ("respawn", "false", "start the node again two seconds after it failed", BOOLEAN),
)


def start(context):
    """The actions, once the values of the arguments are known."""
    value = context.launch_configurations
    parameters = {"use_sim_time": is_true(value["use_sim_time"]), **launch_files.given(CountConfig, value)}
    count = Node(
        package="vss_ros",
        executable="count",
        name="count",
        namespace=value["namespace"],
        # Typed: launch_ros would make a number of the model "7".
        parameters=[
            {
                name: item if isinstance(item, list) else ParameterValue(item, value_type=type(item))
                for name, item in parameters.items()
            }
        ],
        remappings=[pair for name in parameters.get("cameras", [""]) for pair in remaps(value, name)],
        respawn=is_true(value["respawn"]),
        respawn_delay=2.0,
        output="screen",
    )
    ends = [] if is_true(value["respawn"]) else [launch_files.fail_with(count, [])]
    return [*launch_files.let_large_images_through(), *ends, count]


def remaps(value, camera):
    """Topics of one camera, whose name stands before all that is its own; "" for the only one."""
    below = f"{camera}/" if camera else ""
    image = value["image_topic"].replace("{camera}", camera)
    beside = image.removesuffix("/compressed").rpartition("/")[0]
    info = value["camera_info_topic"].replace("{camera}", camera) or f"{beside}/camera_info"
    own = [(f"~/{below}{name}", f"counting/{below}{name}") for name in OUTPUTS]
    return [(f"{below}image", image), (f"{below}camera_info", info), *own]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    options = launch_files.declare(CountConfig, autostart="true")
    return LaunchDescription([*arguments, *options, OpaqueFunction(function=start)])
