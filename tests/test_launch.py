"""Launch files: their arguments, and the node with the very parameters and remaps they give."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from fixtures.paths import ROOT
from fixtures.ros import client, image, start, wait
from vss_ros import cli
from vss_ros.config import SegmentConfig
from vss_ros.evaluate.dataset import add_arguments
from vss_ros.nodes.live import stamp_file
from vss_ros.nodes.processes import Chain
from vss_ros.nodes.watch.command import WatchConfig

PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class Action:
    """Stands for any class of launch and launch_ros: remembers how it was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


@pytest.fixture
def launch(monkeypatch):
    """launch(file, **arguments) -> (declared arguments, actions); the launch packages are not on PyPI."""
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "ExecuteProcess",
            "IncludeLaunchDescription",
            "OpaqueFunction",
            "RegisterEventHandler",
            "SetEnvironmentVariable",
            "Shutdown",
            "TimerAction",
        ],
        "launch.event_handlers": ["OnProcessExit"],
        "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
    }
    for module, classes in names.items():
        stub = types.ModuleType(module)
        for name in classes:
            setattr(stub, name, type(name, (Action,), {}))
        monkeypatch.setitem(sys.modules, module, stub)
    for name in PROFILES:
        monkeypatch.delenv(name, raising=False)

    def load(file: str, **values: str) -> tuple[dict[str, Action], list[Action]]:
        path = ROOT / "launch" / file
        spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        entities = module.generate_launch_description().args[0]
        declared = {e.args[0]: e for e in entities if type(e).__name__ == "DeclareLaunchArgument"}
        assert set(values) <= set(declared), "an argument that is not declared"
        settings = {name: action.kwargs["default_value"] for name, action in declared.items()} | values
        context = types.SimpleNamespace(launch_configurations=settings)
        return declared, entities[-1].kwargs["function"](context)

    return load


def of_kind(actions: list[Action], kind: str) -> list[Action]:
    return [action for action in actions if type(action).__name__ == kind]


def test_arguments_are_declared_and_described(launch):
    declared, _ = launch("segment.launch.py")
    assert {
        "image_topic",
        "camera_info_topic",
        "params_file",
        "namespace",
        "model",
        "backend",
        "use_sim_time",
        "visualize",
        "autostart",
    } <= set(declared)
    assert declared["use_sim_time"].kwargs["default_value"] == "false"
    assert Path(declared["params_file"].kwargs["default_value"]).is_file()
    demo, _ = launch("demo.launch.py")
    evaluate, _ = launch("evaluate.launch.py")
    assert {"bag", "model", "report"} <= set(evaluate)
    for name, action in [*declared.items(), *demo.items(), *evaluate.items()]:
        assert action.kwargs["description"], name
        choices = action.kwargs["choices"]
        assert choices is None or action.kwargs["default_value"] in choices, name


def test_topics_of_a_namespace_and_of_a_camera(launch):
    _, actions = launch("segment.launch.py", image_topic="/front/image_raw/compressed", namespace="robot1")
    [node] = of_kind(actions, "Node")
    remaps = dict(node.kwargs["remappings"])
    assert remaps["image"] == "/front/image_raw/compressed"
    assert remaps["camera_info"] == "/front/camera_info"
    # Relative, so that they fall into the namespace; without one they are /segmentation/...
    assert remaps["~/mask"] == "segmentation/mask"
    assert {
        "~/confidence",
        "~/label_info",
        "~/overlay",
        "~/color_mask",
        "~/mask/compressed",
        "~/flicker",
    } <= set(remaps)
    assert node.kwargs["namespace"] == "robot1"


def test_empty_arguments_leave_the_parameter_file_alone(launch):
    _, actions = launch("segment.launch.py")
    [node] = of_kind(actions, "Node")
    assert node.kwargs["parameters"][1] == {"use_sim_time": False, "autostart": True}
    _, actions = launch("segment.launch.py", model="camvid", backend="torch", autostart="false")
    [node] = of_kind(actions, "Node")
    assert node.kwargs["parameters"][1] == {
        "use_sim_time": False,
        "autostart": False,
        "model": "camvid",
        "backend": "torch",
    }


def test_rviz_only_if_wanted_and_its_topics_follow(launch):
    _, actions = launch("segment.launch.py", visualize="true", image_topic="/front/image", namespace="robot1")
    rviz = of_kind(actions, "Node")[1]
    remaps = dict(rviz.kwargs["remappings"])
    assert remaps["/segmentation/overlay"] == "/robot1/segmentation/overlay"
    config = Path(rviz.kwargs["arguments"][1])
    displays = yaml.safe_load(config.read_text())["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays}
    assert topics == {
        "/camera/image_raw",
        "/segmentation/overlay",
        "/segmentation/color_mask",
        "/segmentation/flicker",
    }
    assert topics <= set(remaps), "every display must follow the arguments"


def test_watcher_only_if_wanted_and_in_the_namespace(launch):
    _, actions = launch("segment.launch.py", watch="true", watch_port="9000", namespace="robot1")
    watcher = of_kind(actions, "Node")[1]
    assert watcher.kwargs["executable"] == "watcher" and watcher.kwargs["namespace"] == "robot1"
    assert WatchConfig(**watcher.kwargs["parameters"][0]) == WatchConfig(port=9000)
    declared, actions = launch("segment.launch.py")
    assert len(of_kind(actions, "Node")) == 1
    default = WatchConfig(
        host=default_of(declared, "watch_host"), port=int(default_of(declared, "watch_port"))
    )
    assert default == WatchConfig()


def default_of(declared: dict[str, Action], name: str) -> str:
    return declared[name].kwargs["default_value"]


def test_profile_for_large_images_unless_the_user_has_one(launch, monkeypatch):
    _, actions = launch("segment.launch.py")
    variables = dict(action.args for action in of_kind(actions, "SetEnvironmentVariable"))
    assert set(variables) == set(PROFILES)
    assert all(Path(path).is_file() for path in variables.values())
    monkeypatch.setenv(PROFILES[1], "/mine.xml")
    _, actions = launch("segment.launch.py")
    assert not of_kind(actions, "SetEnvironmentVariable")


def test_demo_replays_the_clip_to_the_segment_launch_file(launch):
    _, actions = launch("demo.launch.py", bagfile="drive.mp4", rate="0.5", image_topic="/cam/image")
    [replay] = of_kind(actions, "Node")
    assert replay.kwargs["parameters"][0]["source"] == "drive.mp4"
    assert replay.kwargs["parameters"][0]["rate"] == 0.5
    assert dict(replay.kwargs["remappings"])["camera_info"] == "/cam/camera_info"
    [included] = of_kind(actions, "IncludeLaunchDescription")
    assert Path(included.args[0].args[0]).is_file()
    arguments = dict(included.kwargs["launch_arguments"])
    assert arguments["image_topic"] == "/cam/image"
    declared, _ = launch("segment.launch.py")
    assert set(arguments) <= set(declared)


def after(actions: list[Action], target: Action, code: int) -> list[Action]:
    """What a launch file does once a process has ended."""
    handlers = [action.args[0].kwargs for action in of_kind(actions, "RegisterEventHandler")]
    (then,) = [handler["on_exit"] for handler in handlers if handler["target_action"] is target]
    return then(types.SimpleNamespace(returncode=code), None) if callable(then) else then


def test_evaluation_replays_records_and_scores(launch, tmp_path):
    report = tmp_path / "report"
    _, actions = launch("evaluate.launch.py", bag="drive", model="camvid", truth="/truth", report=str(report))
    recorder, replay = of_kind(actions, "Node")
    recording = Path(recorder.kwargs["parameters"][0]["out"])
    assert recording.parent == report / "recordings" and recording.parent.is_dir()
    assert replay.kwargs["parameters"][0]["stamp_file"] == str(stamp_file(recording))
    included = dict(of_kind(actions, "IncludeLaunchDescription")[0].kwargs["launch_arguments"])
    declared, _ = launch("segment.launch.py")
    assert set(included) <= set(declared)
    assert included["image_topic"] == dict(replay.kwargs["remappings"])["image"]

    (score,) = after(actions, recorder, 0)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = parser.parse_args(score.kwargs["cmd"][5:])
    assert (words.bag, words.live, words.model) == (["drive"], recording, "camvid")
    assert (words.truth, words.topic, words.out) == ("/truth", "", report)
    assert of_kind(after(actions, recorder, 1), "Shutdown") and of_kind(after(actions, score, 0), "Shutdown")
    assert of_kind(after(actions, replay, 1), "Shutdown")

    # After a replay without any answer it gives up; with one, the recorder ends by itself.
    (timer,) = after(actions, replay, 0)
    give_up = timer.kwargs["actions"][0].kwargs["function"]
    assert give_up(None) == []
    rows = recording.parent / f".{recording.name}.partial" / "frames.csv"
    rows.parent.mkdir()
    rows.write_text("stamp\n")
    assert of_kind(give_up(None), "Shutdown")
    rows.write_text("stamp\n1\n")
    assert give_up(None) == []


def test_parameter_file_holds_the_defaults():
    """The dataclass is where a default stands; the file shows them to the user."""
    content = yaml.safe_load((ROOT / "config" / "segment.yaml").read_text())["/**"]["ros__parameters"]
    config = SegmentConfig(**content)
    assert config == SegmentConfig()
    assert set(SegmentConfig.__dataclass_fields__) - set(content) == {"constant_network", "autostart"}


@pytest.mark.ros
def test_the_launched_node_runs(launch, client, tmp_path):
    """The command line that launch_ros makes of the action: a YAML file for the dictionary, -r for remaps."""
    from sensor_msgs.msg import Image

    _, actions = launch("segment.launch.py", image_topic="/front/image", namespace="robot1")
    [node] = of_kind(actions, "Node")
    file, values = node.kwargs["parameters"]
    own = tmp_path / "launch_params.yaml"
    own.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**values, "constant_network": True}}}))
    command = [sys.executable, "-m", "vss_ros.nodes.run", node.kwargs["executable"], "--ros-args"]
    command += ["-r", f"__node:={node.kwargs['name']}", "-r", f"__ns:=/{node.kwargs['namespace']}"]
    command += ["--params-file", file, "--params-file", str(own)]
    for old, new in node.kwargs["remappings"]:
        command += ["-r", f"{old}:={new}"]
    masks = client.collect(Image, "/robot1/segmentation/mask")
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert client.active("/robot1/segment"), (tmp_path / "log").read_text()
        client.publish(image(np.zeros((8, 8, 3), np.uint8)), "/front/image")
        assert client.until(lambda: masks)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.ros
@pytest.mark.slow
def test_the_launched_evaluation(launch, tiny_card, tmp_path):
    """Its processes with the very parameters and remaps of the launch file, then its scoring command."""
    for index in range(20):
        picture = np.full((72, 96, 3), 90, np.uint8)
        picture[20:50, index * 3 : index * 3 + 30] = 220
        (tmp_path / "clip").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "clip" / f"{index}.png"), picture)
    values = {"bag": str(tmp_path / "clip"), "report": str(tmp_path / "report"), "rate": "0.3"}
    _, actions = launch("evaluate.launch.py", model=str(tiny_card), backend="torch", **values)
    recorder, replay = of_kind(actions, "Node")
    included = dict(of_kind(actions, "IncludeLaunchDescription")[0].kwargs["launch_arguments"])
    (segment,) = of_kind(launch("segment.launch.py", **included)[1], "Node")
    with Chain(tmp_path / "logs") as chain:
        for node in (segment, recorder, replay):
            parameters = {name: value for name, value in node.kwargs["parameters"][-1].items() if value != ""}
            chain.start(node.kwargs["executable"], parameters, dict(node.kwargs["remappings"]))
        assert wait(lambda: chain.ended("recorder") and chain.ended("replay"), 120), chain.tail(
            "segment", "recorder", "replay"
        )
        assert [chain.running[node].poll() for node in ("recorder", "replay")] == [0, 0]
    (score,) = after(actions, recorder, 0)
    assert cli.main(score.kwargs["cmd"][4:]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    offline, live = report["runs"]
    assert (offline["run"], live["run"]) == ("tiny torch", "tiny torch live")
    assert live["headline"]["frames"] == 20 and live["headline"]["dropped"] <= 5
    assert live["headline"]["delay_ms"] > 0 and 0 <= live["headline"]["differs"] <= 1
    assert len(live["notes"]) == 4 and "frames got no mask" in live["notes"][0]


@pytest.mark.ros
@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs a ROS 2 installation with the ros2 command")
def test_ros2_launch(client, tmp_path):
    command = ["ros2", "launch", "vss_ros", "segment.launch.py", "namespace:=robot2"]
    params = tmp_path / "params.yaml"
    params.write_text("/**: {ros__parameters: {constant_network: true}}")
    child = subprocess.Popen(
        [*command, f"params_file:={params}"],
        env=os.environ,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert client.active("/robot2/segment")
    finally:
        os.killpg(child.pid, signal.SIGINT)
        assert wait(lambda: child.poll() is not None)
    assert child.returncode == 0
