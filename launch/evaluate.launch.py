"""Replay a recording to the node as a camera would, record what arrives, and compare that with the offline answer.

ros2 launch vss_ros evaluate.launch.py bag:=drive model:=street report:=drive_report
"""

import time
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
BOOLEAN = ["true", "false"]
RECORDED = ("mask", "consistency", "label_info_json")
QUIET = 5.0  # seconds without a mask after which the recording is complete
ARGUMENTS = (
    ("bag", "street", "rosbag2, video, folder of images, or street: the synthetic scene", None),
    ("topic", "", "image topic of a bag that has several", None),
    ("truth", "", "true labels: a mask topic of the bag, or a folder of masks", None),
    ("model", "street", "name of a model or path of its card", None),
    ("backend", "auto", "runtime of the network", ["auto", "torch", "onnxruntime", "openvino"]),
    ("rate", "1.0", "speed of the replay", None),
    ("report", "report", "folder of the report; runs that are there already stay in it", None),
    ("visualize", "false", "show camera, overlay and colour mask in rviz", BOOLEAN),
)


def start(context):
    value = context.launch_configurations
    image = "/camera/image_raw"
    report = Path(value["report"]).absolute()
    recording = report / "recordings" / time.strftime("%Y%m%d-%H%M%S")
    recording.parent.mkdir(parents=True, exist_ok=True)
    # First the node, since its launch file sets the environment that large images need.
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "segment.launch.py")),
        launch_arguments=[
            ("image_topic", image),
            *((name, value[name]) for name in ("model", "backend", "visualize")),
        ],
    )
    recorder = Node(
        package="vss_ros",
        executable="recorder",
        name="recorder",
        parameters=[{"out": str(recording), "video": False, "idle_timeout": QUIET}],
        remappings=[(name, f"/segmentation/{name}") for name in RECORDED],
        output="screen",
    )
    replay = Node(
        package="vss_ros",
        executable="replay",
        name="replay",
        parameters=[
            {
                "source": value["bag"],
                "topic": value["topic"],
                "rate": float(value["rate"]),
                "wait_for_subscriber": 600.0,  # the model is exported and compiled the first time
                "stamp_file": f"{recording}.stamps",
            }
        ],
        remappings=[("image", image), ("camera_info", "/camera/camera_info")],
        output="screen",
    )
    score = ExecuteProcess(
        cmd=[
            *("ros2", "run", "vss_ros", "vss", "evaluate", "--bag", value["bag"], "--live", str(recording)),
            *("--model", value["model"], "--backend", value["backend"], "--out", str(report)),
            *(("--topic", value["topic"]) if value["topic"] else ()),
            *(("--truth", value["truth"]) if value["truth"] else ()),
        ],
        output="screen",
    )

    def recorded(event, context):
        return [score] if event.returncode == 0 else [Shutdown(reason="the recording failed")]

    def replayed(event, context):
        if event.returncode:
            return [Shutdown(reason="the replay failed")]
        return [TimerAction(period=4 * QUIET, actions=[OpaqueFunction(function=give_up)])]

    def give_up(context):
        """A node that never answers must not keep a robot's test waiting."""
        rows = recording.parent / f".{recording.name}.partial" / "frames.csv"
        if rows.exists() and rows.read_bytes().count(b"\n") < 2:
            return [Shutdown(reason="no mask arrived: see what the segment node says")]
        return []

    return [
        segment,
        recorder,
        replay,
        RegisterEventHandler(OnProcessExit(target_action=recorder, on_exit=recorded)),
        RegisterEventHandler(OnProcessExit(target_action=replay, on_exit=replayed)),
        RegisterEventHandler(
            OnProcessExit(target_action=score, on_exit=[Shutdown(reason="the evaluation has ended")])
        ),
    ]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
