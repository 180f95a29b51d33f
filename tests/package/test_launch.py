"""Launch files: their arguments, and the node with the very parameters and remaps they give."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import types
from pathlib import Path

import pytest
import yaml
from fixtures.launch import PROFILES, Action, Loop, end, launch, of_kind, parameters_of
from fixtures.paths import ROOT
from fixtures.ros import PATIENCE, client, image, start, wait
from vss_ros.config import VssError
from vss_ros.evaluate.dataset import add_arguments
from vss_ros.evaluate.live import stamp_file
from vss_ros.media.cloud import CloudConfig
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes.watch.command import WatchConfig


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


@pytest.mark.parametrize("none", ["", "[]", "[ ]"])
def test_no_names_are_one_camera(launch, none):
    _, actions = launch("segment.launch.py", cameras=none)
    (node,) = of_kind(actions, "Node")
    assert "cameras" not in node.kwargs["parameters"][1]
    assert ("image", "/camera/image_raw") in node.kwargs["remappings"]


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
