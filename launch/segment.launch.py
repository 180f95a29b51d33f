"""Start the segmentation node on a camera topic and bring it to active.

ros2 launch vss_ros segment.launch.py image_topic:=/camera/image_raw visualize:=true
"""

from pathlib import Path

from launch.actions import OpaqueFunction
from launch_ros.actions import Node
from vss_ros.config import VssError
from vss_ros.media.cloud import CloudConfig
from vss_ros.node_config import SEGMENT_TOPICS, SegmentConfig
from vss_ros.nodes import launch_files
from vss_ros.nodes.launch_files import BOOLEAN, is_true

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]
ARGUMENTS = (
    *launch_files.CAMERA,
    (
        "depth_topic",
        "",
        "topic of depth images that are aligned with the camera's; starts the cloud node, whose answer is "
        "segmentation/points",
        None,
    ),
    ("params_file", str(SHARE / "config" / "segment.yaml"), "YAML file with the node's parameters", None),
    ("namespace", "", "namespace of the node and of its segmentation/ topics", None),
    ("visualize", "false", "show camera, overlay, colour mask and flicker in rviz", BOOLEAN),
    ("watch", "false", "serve a live web page of the masks, as `vss watch` does", BOOLEAN),
    (
        "watch_host",
        "127.0.0.1",
        "address of that page; 0.0.0.0 lets others in, who need the token in the file that the log names",
        None,
    ),
    ("watch_port", "8088", "TCP port of that page", None),
)


def start(context):
    """The actions, once the values of the arguments are known."""
    value = context.launch_configurations
    if not Path(value["params_file"]).is_file():
        raise VssError(f"params_file: expected a YAML file of parameters, {value['params_file']} is none")
    files = [value["params_file"]]
    segment, cameras = launch_files.camera_node(
        SegmentConfig, "segment", value, "segmentation", SEGMENT_TOPICS, files
    )
    views = rviz(value)
    companions = watcher(value) + clouds(value, cameras)
    # Who starts it again after each failure does not want the launch to fail.
    ends = [] if is_true(value["respawn"]) else [launch_files.fail_with(segment, [*views, *companions])]
    # rviz first: where it is not installed the launch fails, and would leave behind what it has started.
    return [*launch_files.let_large_images_through(), *views, *ends, segment, *companions]


def watcher(value):
    if not is_true(value["watch"]):
        return []
    return [
        Node(
            package="vss_ros",
            executable="watcher",
            name="watcher",
            namespace=value["namespace"],
            parameters=[{"host": value["watch_host"], "port": int(value["watch_port"])}],
            output="screen",
        )
    ]


def clouds(value, cameras):
    """A cloud node for each camera."""
    if not value["depth_topic"]:
        return []
    topics = ("mask", "confidence", "camera_info", "label_info_json", "points")
    options = launch_files.given(CloudConfig, value, "cloud_")
    return [
        Node(
            package="vss_ros",
            executable="cloud",
            name=f"{camera}_cloud".lstrip("_"),
            namespace=value["namespace"],
            parameters=[launch_files.typed({"use_sim_time": is_true(value["use_sim_time"]), **options})],
            remappings=[
                ("depth", value["depth_topic"].replace("{camera}", camera)),
                *((name, "/".join(filter(None, ("segmentation", camera, name)))) for name in topics),
            ],
            output="screen",
        )
        for camera in cameras
    ]


def rviz(value):
    if not is_true(value["visualize"]):
        return []
    prefix = f"/{value['namespace'].strip('/')}".rstrip("/")
    shown = [
        (f"/segmentation/{name}", f"{prefix}/segmentation/{name}")
        for name in ("overlay", "color_mask", "flicker")
    ]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            arguments=["-d", str(SHARE / "rviz" / "segment.rviz")],
            parameters=[{"use_sim_time": is_true(value["use_sim_time"])}],
            remappings=[("/camera/image_raw", value["image_topic"]), *shown],
        )
    ]


def generate_launch_description():
    arguments = launch_files.arguments(*ARGUMENTS)
    options = launch_files.declare(SegmentConfig, autostart="true")
    options += launch_files.declare(CloudConfig, "cloud_", "by")
    return LaunchDescription([*arguments, *options, OpaqueFunction(function=start)])
