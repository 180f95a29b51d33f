"""Start the counting node on a camera topic and bring it to active.

ros2 launch vss_ros count.launch.py image_topic:=/camera/image_raw patches:=2
"""

from launch.actions import OpaqueFunction
from vss_ros.node_config import COUNT_TOPICS, CountConfig
from vss_ros.nodes import launch_files

from launch import LaunchDescription

NAMESPACE = ("namespace", "", "namespace of the node and of its counting/ topics", None)


def start(context):
    """The actions, once the values of the arguments are known."""
    value = context.launch_configurations
    count, _ = launch_files.camera_node(CountConfig, "count", value, "counting", COUNT_TOPICS)
    # Who starts it again after each failure does not want the launch to fail.
    ends = [] if launch_files.is_true(value["respawn"]) else [launch_files.fail_with(count, [])]
    return [*launch_files.let_large_images_through(), *ends, count]


def generate_launch_description():
    arguments = launch_files.arguments(*launch_files.CAMERA, NAMESPACE)
    options = launch_files.declare(CountConfig, autostart="true")
    return LaunchDescription([*arguments, *options, OpaqueFunction(function=start)])
