"""A clip instead of a camera: replay, segmentation and, if wanted, rviz.

ros2 launch vss_ros demo.launch.py bagfile:=drive.mp4 visualize:=true
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from vss_ros.nodes import launch_files
from vss_ros.nodes.launch_files import BOOLEAN, is_true

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
ARGUMENTS = (
    ("bagfile", "street", "rosbag2, video, folder of images, or street: the synthetic scene", None),
    ("rate", "1.0", "speed of the clip", None),
    ("loop", "true", "begin again at the end", BOOLEAN),
)


def start(context):
    value = context.launch_configurations
    image = value["image_topic"]
    clip = {
        "source": value["bagfile"],
        "rate": float(value["rate"]),
        "loop": is_true(value["loop"]),
        "wait_for_subscriber": 600.0,  # the model is exported and compiled the first time
    }
    return [
        Node(
            package="vss_ros",
            executable="replay",
            name="replay",
            parameters=[clip],
            remappings=[("image", image), ("camera_info", f"{image.rpartition('/')[0]}/camera_info")],
            output="screen",
        ),
    ]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    # First the node, since its launch file sets the environment that large images need; its arguments are ours.
    segment = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "segment.launch.py")))
    return LaunchDescription(
        [*arguments, launch_files.fail_with_any(), segment, OpaqueFunction(function=start)]
    )
