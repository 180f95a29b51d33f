"""Launch files: their arguments, and the node with the very parameters and remaps they give."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
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
from fixtures.ros import PATIENCE, client, image, start, wait
from vss_ros import cli
from vss_ros.config import SegmentConfig, VssError
from vss_ros.evaluate.dataset import add_arguments
from vss_ros.media.cloud import CloudConfig
from vss_ros.nodes.live import stamp_file
from vss_ros.nodes.processes import Chain
from vss_ros.nodes.watch.command import WatchConfig

PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class Action:
    """Stands for any class of launch and launch_ros: remembers how it was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class Stub(types.ModuleType):
    """A module of launch, launch_ros: whatever is imported from it is a kind of action."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        setattr(self, name, type(name, (Action,), {}))
        return getattr(self, name)


@pytest.fixture
def launch(monkeypatch):
    """launch(file, **arguments) -> (declared arguments, actions); the launch packages are not on PyPI."""
    modules = ["launch", *(f"launch.{name}" for name in ("actions", "event_handlers", "events"))]
    modules += ["launch.events.process", "launch.launch_description_sources", "launch_ros"]
    modules += [f"launch_ros.{name}" for name in ("actions", "parameter_descriptions", "substitutions")]
    for name in modules:
        monkeypatch.setitem(sys.modules, name, Stub(name))
    monkeypatch.setitem(sys.modules, "vss_ros.nodes.launch_files", None)
    monkeypatch.delitem(sys.modules, "vss_ros.nodes.launch_files")
    import vss_ros.nodes

    monkeypatch.delattr(vss_ros.nodes, "launch_files", raising=False)
    for name in PROFILES:
        monkeypatch.delenv(name, raising=False)

    def load(file: str, **values: str) -> tuple[dict[str, Action], list[Action]]:
        entities = read(file)
        declared = {e.args[0]: e for e in of_kind(entities, "DeclareLaunchArgument")}
        for included in of_kind(entities, "IncludeLaunchDescription"):
            given = dict(included.kwargs.get("launch_arguments", ()))
            theirs = of_kind(read(Path(included.args[0].args[0]).name), "DeclareLaunchArgument")
            declared = {e.args[0]: e for e in theirs} | declared
            values = values | given
        assert set(values) <= set(declared), "an argument that is not declared"
        settings = {name: action.kwargs["default_value"] for name, action in declared.items()} | values
        context = types.SimpleNamespace(launch_configurations=settings)
        return declared, [*entities, *entities[-1].kwargs["function"](context)]

    def read(file: str) -> list[Action]:
        path = ROOT / "launch" / file
        spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.generate_launch_description().args[0]

    return load


def of_kind(actions: list[Action], kind: str) -> list[Action]:
    return [action for action in actions if type(action).__name__ == kind]


def test_arguments_are_declared_and_described(launch):
    declared, _ = launch("segment.launch.py")
    assert {"image_topic", "camera_info_topic", "params_file", "namespace", "use_sim_time"} <= set(declared)
    assert {"visualize", "watch", "respawn"} <= set(declared)
    assert declared["use_sim_time"].kwargs["default_value"] == "false"
    assert Path(declared["params_file"].kwargs["default_value"]).is_file()
    demo, _ = launch("demo.launch.py")
    evaluate, _ = launch("evaluate.launch.py")
    assert {"bag", "model", "report"} <= set(evaluate)
    options = {item.name for item in dataclasses.fields(SegmentConfig)}
    assert options <= set(declared) and options <= set(demo) and options <= set(evaluate)
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


def test_topics_of_several_cameras(launch):
    _, actions = launch("segment.launch.py", image_topic="/{camera}/image_raw", cameras="front, left")
    [node] = of_kind(actions, "Node")
    assert node.kwargs["parameters"][1]["cameras"] == ["front", "left"]
    remaps = dict(node.kwargs["remappings"])
    for name in ("front", "left"):
        assert remaps[f"{name}/image"] == f"/{name}/image_raw"
        assert remaps[f"{name}/camera_info"] == f"/{name}/camera_info"
        assert remaps[f"~/{name}/mask"] == f"segmentation/{name}/mask"
    assert "~/mask" not in remaps


def test_empty_arguments_leave_the_parameter_file_alone(launch):
    _, actions = launch("segment.launch.py")
    [node] = of_kind(actions, "Node")
    assert parameters_of(node) == {"use_sim_time": False, "autostart": True}
    assert node.kwargs["respawn"] is False


def test_every_option_of_the_node_is_an_argument_of_its_type(launch):
    given = {"model": "7", "backend": "tensorrt", "interval": "3", "max_gap": "2", "allow_fallback": "True"}
    _, actions = launch("segment.launch.py", **given, autostart="false", use_sim_time="True", respawn="True")
    [node] = of_kind(actions, "Node")
    expected = {"model": "7", "backend": "tensorrt", "interval": 3, "max_gap": 2.0, "allow_fallback": True}
    assert parameters_of(node) == {**expected, "autostart": False, "use_sim_time": True}
    types_ = {name: item.kwargs["value_type"] for name, item in node.kwargs["parameters"][1].items()}
    assert types_["max_gap"] is float and types_["model"] is str, "launch_ros guesses a type otherwise"
    assert node.kwargs["respawn"] is True
    with pytest.raises(VssError, match="interval: expected int, got 'often'"):
        launch("segment.launch.py", interval="often")


def test_choices_are_those_of_the_option_or_empty(launch):
    declared, _ = launch("segment.launch.py")
    choices = {name: action.kwargs["choices"] for name, action in declared.items()}
    assert {"tensorrt", "auto", ""} <= set(choices["backend"]) and choices["model"] is None
    assert set(choices["undistort"]) == {"true", "false", "True", "False", ""}
    assert choices["use_sim_time"] == ["true", "false", "True", "False"]


def test_a_parameter_file_that_is_not_there_is_an_error(launch):
    with pytest.raises(VssError, match=r"params_file: .*/nowhere\.yaml"):
        launch("segment.launch.py", params_file="/nowhere.yaml")


def parameters_of(node: Action) -> dict[str, Any]:
    return {name: item.args[0] for name, item in node.kwargs["parameters"][1].items()}


def test_rviz_only_if_wanted_and_its_topics_follow(launch):
    _, actions = launch("segment.launch.py", visualize="true", image_topic="/front/image", namespace="robot1")
    # Without rviz2 the launch fails here, and must not have started a node that it would leave behind.
    rviz = of_kind(actions, "Node")[0]
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


def test_a_depth_topic_starts_a_cloud_node(launch):
    given = {"depth_topic": "/front/depth", "cloud_classes": "car,road", "cloud_stride": "2"}
    declared, actions = launch("segment.launch.py", namespace="robot1", **given)
    cloud = of_kind(actions, "Node")[1]
    assert cloud.kwargs["executable"] == "cloud" and cloud.kwargs["namespace"] == "robot1"
    parameters = {name: getattr(v, "args", [v])[0] for name, v in cloud.kwargs["parameters"][0].items()}
    assert parameters == {"use_sim_time": False, "classes": ["car", "road"], "stride": 2}
    remaps = dict(cloud.kwargs["remappings"])
    assert remaps["depth"] == "/front/depth" and remaps["mask"] == "segmentation/mask"
    assert remaps["points"] == "segmentation/points"
    assert {f"cloud_{item.name}" for item in dataclasses.fields(CloudConfig)} <= set(declared)
    _, actions = launch("segment.launch.py", cameras="front,left", depth_topic="/{camera}/depth")
    left = of_kind(actions, "Node")[2]
    remaps = dict(left.kwargs["remappings"])
    assert left.kwargs["name"] == "left_cloud" and remaps["depth"] == "/left/depth"
    assert remaps["points"] == "segmentation/left/points"


def default_of(declared: dict[str, Action], name: str) -> str:
    return declared[name].kwargs["default_value"]


@pytest.mark.parametrize(("rclpy", "name"), [("3.3.15", 1), ("7.1.6", 1), ("9.1.2", 0), ("10.0.0", 0)])
def test_profile_for_large_images_unless_the_user_has_one(launch, monkeypatch, rclpy, name):
    """Only the variable that this release reads: the other one costs a remark at each start."""
    monkeypatch.setattr(importlib.metadata, "version", lambda package: rclpy)
    _, actions = launch("segment.launch.py")
    [variable] = of_kind(actions, "SetEnvironmentVariable")
    assert variable.args[0] == PROFILES[name] and Path(variable.args[1]).is_file()
    monkeypatch.setenv(PROFILES[1 - name], "/mine.xml")
    _, actions = launch("segment.launch.py")
    assert not of_kind(actions, "SetEnvironmentVariable")


class Loop:
    """Stands for a launch's context and its event loop, which makes the exit code 1 when it is told of an error."""

    def __init__(self) -> None:
        self.asyncio_loop, self.is_shutdown, self.errors = self, False, []

    def call_exception_handler(self, error: dict[str, str]) -> None:
        self.errors.append(error["message"])


def end(actions: list[Action], target: Action | None, code: int, context: Loop | None = None) -> list[Action]:
    """What a launch file does once a process has ended."""
    event = types.SimpleNamespace(returncode=code, process_name="node-1")
    handlers = [action.args[0] for action in of_kind(actions, "RegisterEventHandler")]
    then = []
    for handler in of_kind(handlers, "OnProcessExit"):
        if handler.kwargs.get("target_action") in (target, None):
            then += handler.kwargs["on_exit"](event, context or Loop())
    return then


def test_a_failed_node_is_the_exit_code_and_takes_its_companions_along(launch):
    _, actions = launch("segment.launch.py", watch="true", visualize="true")
    companions = of_kind(actions, "Node")
    node = companions.pop(1)
    assert node.kwargs["executable"] == "segment"
    context = Loop()
    stops = end(actions, node, -9, context)
    assert context.errors == ["node-1 ended with code -9: see its lines above"]
    assert len(stops) == len(companions) == 2 and of_kind(stops, "EmitEvent") == stops
    assert not of_kind(stops, "Shutdown"), "the other nodes of a robot go on"
    assert end(actions, node, 0) and not end(actions, companions[0], -9)
    _, actions = launch("segment.launch.py", respawn="true")
    assert not of_kind(actions, "RegisterEventHandler")


def test_demo_replays_the_clip_to_the_segment_launch_file(launch):
    _, actions = launch("demo.launch.py", bagfile="drive.mp4", rate="0.5", image_topic="/cam/image")
    [replay] = of_kind(actions, "Node")
    assert replay.kwargs["parameters"][0]["source"] == "drive.mp4"
    assert replay.kwargs["parameters"][0]["rate"] == 0.5
    assert dict(replay.kwargs["remappings"])["camera_info"] == "/cam/camera_info"
    context = Loop()
    assert of_kind(end(actions, replay, 1, context), "Shutdown") and context.errors
    assert not end(actions, replay, 0)


def test_evaluation_replays_records_and_scores(launch, tmp_path):
    report = tmp_path / "report"
    given = {"bag": "drive", "model": "camvid", "truth": "/truth", "interval": "3", "namespace": "robot1"}
    _, actions = launch("evaluate.launch.py", report=str(report), **given)
    recorder, replay = of_kind(actions, "Node")
    recording = Path(recorder.kwargs["parameters"][0]["out"])
    assert recording.parent == report / "recordings" and recording.parent.is_dir()
    assert dict(recorder.kwargs["remappings"])["mask"] == "/robot1/segmentation/mask"
    assert replay.kwargs["parameters"][0]["stamp_file"] == str(stamp_file(recording))
    [included] = of_kind(actions, "IncludeLaunchDescription")
    assert (
        dict(included.kwargs["launch_arguments"])["image_topic"] == dict(replay.kwargs["remappings"])["image"]
    )

    (score,) = end(actions, recorder, 0)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = parser.parse_args(score.kwargs["cmd"][2:])
    assert (words.bag, words.live, words.model, words.k) == (["drive"], recording, "camvid", "3")
    assert (words.truth, words.topic, words.out) == ("/truth", "", report)
    assert of_kind(end(actions, score, 0), "Shutdown")


def test_every_failure_of_an_evaluation_is_its_exit_code(launch, tmp_path):
    _, actions = launch("evaluate.launch.py", report=str(tmp_path / "report"))
    recorder, replay = of_kind(actions, "Node")
    (score,) = end(actions, recorder, 0)
    for process in (recorder, replay, score, Action()):
        context = Loop()
        assert of_kind(end(actions, process, 1, context), "Shutdown") and context.errors
    context = Loop()
    context.is_shutdown = True
    assert not end(actions, replay, -2, context) and not context.errors

    # After a replay without any answer it gives up; with one, the recorder ends by itself.
    (timer,) = end(actions, replay, 0)
    give_up = timer.kwargs["actions"][0].kwargs["function"]
    assert of_kind(give_up(context), "Shutdown") and context.errors
    # A node that cannot be configured waits for another model, which nobody will set here.
    said = of_kind([a.args[0] for a in of_kind(actions, "RegisterEventHandler")], "OnProcessIO")[0]
    line = types.SimpleNamespace(
        process_name="segment-1", text=b"[ERROR] [17.2] [robot1.segment]: model 'x': expected\n"
    )
    context = Loop()
    (stop,) = said.kwargs["on_stderr"](line)
    assert of_kind(stop.kwargs["function"](context), "Shutdown")
    assert context.errors == ["model 'x': expected"]
    line.text = line.text.replace(b"ERROR", b"WARN")
    assert not said.kwargs["on_stderr"](line)
    recording = Path(recorder.kwargs["parameters"][0]["out"])
    rows = recording.parent / f"{recording.name}.partial" / "frames.csv"
    rows.parent.mkdir()
    rows.write_text("stamp\n")
    assert of_kind(give_up(context), "Shutdown")
    rows.write_text("stamp\n1\n")
    line.text = line.text.replace(b"WARN", b"ERROR")
    assert not give_up(context) and not said.kwargs["on_stderr"](line)


def test_parameter_file_holds_the_defaults():
    """The dataclass is where a default stands; the file shows them to the user."""
    content = yaml.safe_load((ROOT / "config" / "segment.yaml").read_text())["/**"]["ros__parameters"]
    config = SegmentConfig(**content)
    assert config == SegmentConfig()
    assert set(SegmentConfig.__dataclass_fields__) - set(content) == {
        "constant_network",
        "autostart",
        "cameras",
    }


@pytest.mark.ros
def test_the_launched_node_runs(launch, client, tmp_path):
    """The command line that launch_ros makes of the action: a YAML file for the dictionary, -r for remaps."""
    from sensor_msgs.msg import Image

    _, actions = launch("segment.launch.py", image_topic="/front/image", namespace="robot1")
    [node] = of_kind(actions, "Node")
    file, values = node.kwargs["parameters"][0], parameters_of(node)
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
    given = {"model": str(tiny_card), "backend": "torch", **included}
    (segment,) = of_kind(launch("segment.launch.py", **given)[1], "Node")
    with Chain(tmp_path / "logs") as chain:
        for node in (segment, recorder, replay):
            given = parameters_of(node) if node is segment else node.kwargs["parameters"][0]
            parameters = {name: value for name, value in given.items() if value != ""}
            chain.start(node.kwargs["executable"], parameters, dict(node.kwargs["remappings"]))
        assert wait(lambda: chain.ended("recorder") and chain.ended("replay"), 120), chain.tail(
            "segment", "recorder", "replay"
        )
        assert [chain.running[node].poll() for node in ("recorder", "replay")] == [0, 0]
    (score,) = end(actions, recorder, 0)
    assert cli.main(score.kwargs["cmd"][1:]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    offline, live = report["runs"]
    assert (offline["run"], live["run"]) == ("tiny torch", "tiny torch live")
    assert live["headline"]["frames"] == 20 and live["headline"]["dropped"] <= 5
    assert live["headline"]["delay_ms"] > 0 and 0 <= live["headline"]["differs"] <= 1
    assert len(live["notes"]) == 4 and "frames got no mask" in live["notes"][0]


needs_ros2 = pytest.mark.skipif(
    shutil.which("ros2") is None, reason="needs a ROS 2 installation with the ros2 command"
)


def ros2_launch(*arguments: str) -> subprocess.Popen:
    command = ["ros2", "launch", "vss_ros", *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


@pytest.mark.ros
@needs_ros2
def test_ros2_launch_until_ctrl_c(client, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("/**: {ros__parameters: {constant_network: true}}")
    child = ros2_launch("segment.launch.py", "namespace:=robot2", f"params_file:={params}", "watch:=True")
    try:
        assert client.active("/robot2/segment")
    finally:
        os.killpg(child.pid, signal.SIGINT)
        assert wait(lambda: child.poll() is not None)
    assert child.returncode == 0


@pytest.mark.ros
@needs_ros2
@pytest.mark.parametrize(
    "arguments",
    [
        ("segment.launch.py", "params_file:=/nowhere.yaml"),
        ("segment.launch.py", "overlay_alpha:=7", "watch:=true", "watch_port:=0"),
        ("demo.launch.py", "bagfile:=/nowhere", "constant_network:=true"),
        ("evaluate.launch.py", "bag:=/nowhere", "constant_network:=true"),
        ("evaluate.launch.py", "model:=nowhere"),
    ],
)
def test_ros2_launch_fails_at_once(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert ros2_launch(*arguments).wait(PATIENCE) == 1
