"""Replay a recording to the node as a camera would, record what arrives, and compare that with the offline answer.

ros2 launch vss_ros evaluate.launch.py bag:=drive model:=street report:=drive_report
"""

import re
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
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes import launch_files

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
RECORDED = ("mask", "consistency", "label_info_json")
IMAGE = "/camera/image_raw"
QUIET = 5.0  # seconds without a mask after which the recording is complete
# Options of the node that the offline answer takes, too, as `vss evaluate` calls them.
OFFLINE = {
    "backend": "--backend",
    "precision": "--precision",
    "threads": "--threads",
    "policy": "--policy",
    "interval": "--k",
    "threshold": "--thresholds",
    "drift_threshold": "--drifts",
    "max_interval": "--max-interval",
    "groups": "--groups",
}
ARGUMENTS = (
    ("bag", "street", "rosbag2, video, folder of images, or street: the synthetic scene", None),
    ("topic", "", "image topic of a bag that has several", None),
    ("truth", "", "true labels: a mask topic of the bag, or a folder of masks", None),
    ("model", SegmentConfig.model, "name of a model or path of its card", None),
    ("rate", "1.0", "speed of the replay", None),
    ("report", "report", "folder of the report; runs that are there already stay in it", None),
)


def start(context):
    value = context.launch_configurations
    report = Path(value["report"]).absolute()
    recording = report / "recordings" / time.strftime("%Y%m%d-%H%M%S")
    recording.parent.mkdir(parents=True, exist_ok=True)
    outputs = f"/{value['namespace']}/segmentation".replace("//", "/")
    recorder = Node(
        package="vss_ros",
        executable="recorder",
        name="recorder",
        parameters=[{"out": str(recording), "video": False, "idle_timeout": QUIET}],
        remappings=[(name, f"{outputs}/{name}") for name in RECORDED],
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
        remappings=[("image", IMAGE), ("camera_info", "/camera/camera_info")],
        output="screen",
    )
    options = {"--topic": value["topic"], "--truth": value["truth"]}
    options |= {flag: value[name] for name, flag in OFFLINE.items()}
    score = ExecuteProcess(
        cmd=[
            *(ExecutableInPackage("vss", "vss_ros"), "evaluate", "--bag", value["bag"]),
            *("--live", str(recording), "--model", value["model"], "--out", str(report)),
            *(word for flag, given in options.items() if given for word in (flag, given)),
        ],
        output="screen",
    )

    def answered():
        """Whether the recorder has a mask, which it notes in a row below the table's head."""
        rows = recording.parent / f"{recording.name}.partial" / "frames.csv"
        return recording.exists() or (rows.exists() and rows.read_bytes().count(b"\n") >= 2)

    def give_up(context):
        """A node that never answers must not keep a robot's test waiting."""
        why = "no mask arrived: see what the segment node says"
        return [] if answered() else launch_files.failed(None, context, why)

    def said(event):
        """A node that cannot be configured lives on, for whoever sets another model; here nobody does."""
        error = re.search(r"\[ERROR\] .*\[(?:.+\.)?segment\]: (.+)", event.text.decode(errors="replace"))
        if error and event.process_name.startswith("segment") and not answered():
            return [OpaqueFunction(function=lambda context: launch_files.failed(None, context, error[1]))]
        return []

    def succeeded(action, then):
        """What follows when a process has ended well; how it ends otherwise, `fail_with_any` says."""

        def ended(event, context):
            return [] if event.returncode or context.is_shutdown else [then]

        return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ended))

    return [
        recorder,
        replay,
        RegisterEventHandler(OnProcessIO(on_stdout=said, on_stderr=said)),
        succeeded(recorder, score),
        succeeded(replay, TimerAction(period=4 * QUIET, actions=[OpaqueFunction(function=give_up)])),
        succeeded(score, Shutdown(reason="the evaluation has ended")),
    ]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    # First the node, since its launch file sets the environment that large images need; its arguments are ours.
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "segment.launch.py")),
        launch_arguments=[("image_topic", IMAGE), ("transport", "raw")],
    )
    return LaunchDescription(
        [*arguments, launch_files.fail_with_any(), segment, OpaqueFunction(function=start)]
    )
